"""Federated averaging: the mean of the updates, without any defense.

McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.context import Context, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class FedAvg(Defense):
    """Mean of all updates, weighted by the number of training examples; rejects nobody."""

    paper = "McMahan et al., AISTATS 2017"
    judges_buffers = True
    on_buffers = (
        "a mean weighs every update alone, whatever model it began from; FedBuff's is that with uniform=true"
    )
    uniform: bool = False
    """Whether every client counts the same, p_i = 1 / K, as in PDRR and the published CAM code."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """sum_i p_i u_i, with p_i = n_i / sum n_j."""
        nobody = np.zeros(updates.num_clients, bool)
        aggregate, weights = accepted_mean(updates, nobody, uniform=self.uniform)
        return Verdict(aggregate, weights), state
