"""Coordinate-wise median.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018. With an even number
of updates it is the mean of the middle two. Published code that differs: `torch.median`, used by the code of
RLR, returns the lower of the two; the code of FLDetector takes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from defenses.order_statistics import median
from raysim.context import Context, State
from raysim.defense import Defense, Verdict
from raysim.updates import Updates


@dataclass(frozen=True)
class Median(Defense):
    """Per parameter, the unweighted median of the updates."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Every parameter on its own."""
        return Verdict(updates.map_columns("order_statistics", median)), state
