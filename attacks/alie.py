"""A little is enough: stay a few standard deviations from the mean, within what a majority would hide."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from attacks.rows import mean_row, one_row_for_all, std_row
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.updates import Updates

PROBABILITY_RANGE = (0.01, 0.99)
"""Bounds of the normal probability that z is read from: without them it is -inf or +inf in small cohorts."""


@dataclass(frozen=True)
class ALIE(Attack):
    """Submit mu - z sigma per coordinate, z the largest deviation that enough honest clients exceed.

    Of K clients, c of them attackers, s = floor(K/2 + 1) - c supporters make a majority, and
    z = Phi^-1((K - c - s) / (K - c)), the probability kept within [0.01, 0.99]. z is negative where the
    attackers are few. All attackers submit the same row; its buffers are the mean of the models seen. With
    `benign` statistics a round without a benign client leaves w_G; with `own` ones a single attacker has sigma = 0 and
    submits its honest update.

    Source: Baruch et al., NeurIPS 2019.
    """

    paper = "Baruch et al., NeurIPS 2019"
    statistics: Literal["benign", "own"] = "benign"
    """Whose updates mu and sigma are over: all `benign` ones (FLPoison, Blades) or the attackers' `own`
    (Baruch et al.)."""
    sign: Literal[-1, 1] = -1
    """Sign of z in mu + sign z sigma: -1 as printed, 1 as FLPoison and Blades have it."""
    z: float | None = None
    """A fixed number of standard deviations instead of the formula's (ByzFL: 1.5); null: the formula's."""
    ddof: Literal[0, 1] = 0
    """What the variance's divisor lacks of the number of rows: 0 (FLPoison), 1 is Bessel's correction
    (Blades)."""

    @property
    def visibility(self) -> Visibility:
        """Every model, or the colluders' only."""
        return Visibility.OMNISCIENT if self.statistics == "benign" else Visibility.COLLUDING

    @property
    def trains(self) -> bool:
        """Only if the statistics are over the attackers' own updates."""
        return self.statistics == "own"

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The same row mu + sign z sigma for every attacker."""
        source = view.own if self.statistics == "own" else view.benign
        if source is None or not source.num_clients:
            return None, {}
        z = deviation(view.cohort_size, view.own.num_clients) if self.z is None else self.z
        mean = mean_row(source, "alie")
        row = mean + self.sign * z * std_row(source, mean, "alie", self.ddof)
        return one_row_for_all(source, view.own, "alie", row), {"z": float(z)}

    def diagnostics(self, state: State) -> Diagnostics:
        """z: the number of standard deviations used."""
        return dict(state)


def deviation(cohort_size: int, num_attackers: int) -> float:
    """z for K clients with c attackers among them.

    >>> round(deviation(50, 24), 2)  # s = 2: Phi^-1(24 / 26)
    1.43
    """
    honest = cohort_size - num_attackers
    supporters = cohort_size // 2 + 1 - num_attackers
    low, high = PROBABILITY_RANGE
    probability = (honest - supporters) / honest if honest else high
    return NormalDist().inv_cdf(min(max(probability, low), high))
