"""Trimmed mean: per parameter, the mean without the lowest and highest values.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018. Here `trim` is the
number of values dropped on each side. With trim = 0 it is the plain mean (FLPoison returns zero there, from an
empty slice).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from defenses.order_statistics import trimmed_mean
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement


@dataclass(frozen=True)
class TrimmedMean(Defense):
    """Per parameter, the unweighted mean of the values left when the lowest and highest are dropped.

    A round that is left with fewer rows than planned drops at most (K - 1) // 2 on each side, which leaves the median.
    """

    paper = "Yin et al., ICML 2018"
    judges_buffers = True
    on_buffers = "it sorts the values of each parameter's updates, whatever model these began from"
    reads_columns = True
    needs = frozenset({Requirement.ORDER_STATISTICS})
    trim: Count | None = None
    """Values dropped on each side, 2 trim < K; null: K // 5, a fifth."""

    def check(self, setting: Setting) -> None:
        """2 trim < K."""
        if self.trim is not None and 2 * self.trim >= setting.cohort:
            raise ConfigError(
                "trim",
                f"must be less than half of {setting.cohort}, the clients in a round",
                self.trim,
                (setting.cohort - 1) // 2,
            )

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Every parameter on its own."""
        count = updates.num_clients
        trim = count // 5 if self.trim is None else min(self.trim, (count - 1) // 2)
        return Verdict(
            updates.map_columns("order_statistics", partial(trimmed_mean, trim=trim), needs=ACCELERATED)
        ), state
