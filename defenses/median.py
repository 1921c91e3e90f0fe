"""Coordinate-wise median.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018. With an even number
of updates it is the mean of the middle two. Published code that differs (option `even`): `torch.median`, used by
the code of RLR, returns the lower of the two, the code of FLDetector the upper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from defenses.order_statistics import Even, median
from raysim.backends.base import ACCELERATED
from raysim.context import Context, State
from raysim.defense import Defense, Verdict
from raysim.matrix.updates import Updates
from raysim.requirement import Requirement


@dataclass(frozen=True)
class Median(Defense):
    """Per parameter, the unweighted median of the updates."""

    paper = "Yin et al., ICML 2018"
    judges_buffers = True
    on_buffers = "it sorts the values of each parameter's updates, whatever model these began from"
    reads_columns = True
    needs = frozenset({Requirement.ORDER_STATISTICS})
    even: Even = "mean"
    """Median of an even number of values: the `mean` of the middle two, or the `lower` or `upper` of them."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Every parameter on its own."""
        return Verdict(
            updates.map_columns("order_statistics", partial(median, even=self.even), needs=ACCELERATED)
        ), state
