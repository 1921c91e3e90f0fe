"""Inner product manipulation: a multiple of the benign mean with the sign reversed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attacks.rows import mean_row, one_row_for_all
from raysim.attack import Attack, View, Visibility
from raysim.context import Context, State
from raysim.matrix.updates import Updates
from raysim.options import Positive


@dataclass(frozen=True)
class InnerProductManipulation(Attack):
    """Submit -epsilon times the benign mean update, so that the aggregate's inner product with it turns negative.

    u' = -epsilon mean(benign updates), the same row from every attacker, buffers the benign mean; a round
    without a benign client leaves w_G. A small epsilon stays near the benign updates and passes distance
    rules; a large one reverses the mean.

    Source: Xie et al., UAI 2019. epsilon there and in FLPoison 0.1 (passes Krum); Blades 1, ByzFL 2.
    """

    paper = "Xie et al., UAI 2019"
    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Needs every benign update."""
    trains: ClassVar[bool] = False
    """No: what is submitted does not depend on the attacker's own model."""
    epsilon: Positive = 0.1
    """Factor on the reversed benign mean (Xie et al., FLPoison: 0.1; Blades: 1; ByzFL: 2)."""

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The benign mean times -epsilon."""
        if view.benign is None or not view.benign.num_clients:
            return None, state
        row = -self.epsilon * mean_row(view.benign, "ipm")
        return one_row_for_all(view.benign, view.own, "ipm", row), state
