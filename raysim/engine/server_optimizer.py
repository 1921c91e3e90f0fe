"""The server's optimizer: from a round's aggregate to the step of the global parameters, and to the next global model.

Reddi et al., "Adaptive federated optimization", ICLR 2021 (algorithm 2: FedAdam, without bias correction), and Hsu et
al., "Measuring the effects of non-identical data distribution", 2019 (FedAvgM). The aggregate D is the defense's:
local minus global, so that it points where the model is to go.
"""

from __future__ import annotations

import numpy as np

from raysim.config.training import ServerConfig
from raysim.context import State
from raysim.defense import Verdict
from raysim.matrix.updates import Updates


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


def apply(
    verdict: Verdict,
    updates: Updates,
    usable: np.ndarray,
    global_vector: np.ndarray,
    server: ServerConfig = ServerConfig(),
    memory: State | None = None,
) -> tuple[np.ndarray, State]:
    """(The next global vector, what the server's optimizer remembers): parameters move by what that makes of the
    aggregate, buffers by the verdict's weights. Without a usable row nothing moves.

    A coordinate-wise rule has no weights: buffers then follow the data-weighted mean of the rows that were
    not flagged. A mean of variances that rounding takes below 0 is 0.
    """
    d = updates.dim
    new = global_vector.copy()
    memory = memory or {}
    if usable.any():
        step, memory = server_step(server, memory, verdict.aggregate)
        new[:d] += step
    if len(new) > d:
        weights = verdict.weights
        if weights is None:
            accepted = usable if verdict.flagged is None else usable & ~verdict.flagged
            weights = np.where(accepted, np.maximum(updates.num_examples, 0), 0).astype(np.float64)
        total = weights.sum()
        if total > 0:
            new[d:] += updates.combine_buffers(weights / total)
            variances = updates.layout.variance_columns
            new[variances] = np.maximum(new[variances], 0)
    return new, memory
