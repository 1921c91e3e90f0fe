"""RLR: the robust learning rate, which reverses parameters that too few clients agree on.

Ozdayi et al., "Defending against backdoors in federated learning with robust learning rate", AAAI 2021. FedGrad sets
the threshold to floor(K e) + 1 for an assumed share e of malicious clients; in its code the learning rate is the
clients' own, which shrinks every step. FedML takes the signs of whatever tensor it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.options import Count, Positive


@dataclass(frozen=True)
class RLR(Defense):
    """Data-weighted mean, sign reversed where the signs of the updates do not add up to a threshold.

    The step is +learning_rate where |sum_i sign(u_i)| >= threshold, -learning_rate elsewhere, with sign(0) = 0. A round
    that is left with fewer rows than the threshold asks for unanimity.
    """

    paper = "Ozdayi et al., AAAI 2021"
    judges_buffers = True
    on_buffers = "it counts the signs of each parameter's updates, whatever model these began from"
    reads_columns = True
    threshold: Count | None = None
    """Least |sum of signs| for a step along the mean; null: floor(K / 2) + 1."""
    learning_rate: Positive = 1.0
    """The server's learning rate, without a unit."""

    def check(self, setting: Setting) -> None:
        """threshold <= K: above it every step is reversed."""
        if self.threshold is not None and self.threshold > setting.cohort:
            raise ConfigError(
                "threshold",
                f"must not exceed {setting.cohort}, the clients in a round",
                self.threshold,
                setting.cohort,
            )

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Every parameter on its own."""
        count = updates.num_clients
        threshold = count // 2 + 1 if self.threshold is None else min(self.threshold, count)
        vote = partial(_signed_mean, updates.shares, threshold, self.learning_rate)
        return Verdict(updates.map_columns("sign_vote", vote)), state


def _signed_mean(shares: np.ndarray, threshold: int, learning_rate: float, columns: np.ndarray) -> np.ndarray:
    agreement = np.abs(np.sign(columns).sum(axis=0))
    rate = np.where(agreement >= threshold, learning_rate, -learning_rate)
    mean: np.ndarray = rate * (shares @ columns.astype(np.float64))
    return mean.astype(np.float32)
