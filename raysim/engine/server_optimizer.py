"""The server's optimizer: from a round's aggregate to the step of the global parameters.

Reddi et al., "Adaptive federated optimization", ICLR 2021 (algorithm 2: FedAdam, without bias correction), and Hsu et
al., "Measuring the effects of non-identical data distribution", 2019 (FedAvgM). The aggregate D is the defense's:
local minus global, so that it points where the model is to go.
"""

from __future__ import annotations

import numpy as np

from raysim.config.training import ServerConfig
from raysim.context import State


def server_step(config: ServerConfig, state: State, aggregate: np.ndarray) -> tuple[np.ndarray, State]:
    """(what is added to the global parameters [d], the new state) for an aggregate [d].

    sgd: lr D; as it is where lr is 1. momentum: lr v, v = momentum v + D. adam: lr m / (sqrt(v) + epsilon),
    m = momentum m + (1 - momentum) D, v = beta2 v + (1 - beta2) D^2, from m = 0 and v = epsilon^2. Moments are float32.

    >>> config = ServerConfig(optimizer="momentum", momentum=0.5, lr=2)
    >>> first, state = server_step(config, {}, np.array([1.0, -2.0], np.float32))
    >>> second, _ = server_step(config, state, np.array([1.0, 0.0], np.float32))
    >>> first.tolist(), second.tolist()
    ([2.0, -4.0], [3.0, -2.0])
    """
    if config.optimizer == "sgd":
        return (aggregate if config.lr == 1 else config.lr * aggregate), state
    change = aggregate.astype(np.float32)
    first = state.get("first", np.zeros_like(change))
    if config.optimizer == "momentum":
        first = np.float32(config.momentum) * first + change
        return np.float32(config.lr) * first, {"first": first}
    second = state.get("second", np.full_like(change, config.epsilon**2))
    first = np.float32(config.momentum) * first + np.float32(1 - config.momentum) * change
    second = np.float32(config.beta2) * second + np.float32(1 - config.beta2) * change**2
    step = np.float32(config.lr) * first / (np.sqrt(second) + np.float32(config.epsilon))
    return step, {"first": first, "second": second}
