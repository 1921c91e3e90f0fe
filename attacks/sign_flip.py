"""Sign flipping: submit the update turned around."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attacks.rows import mean_row, one_row_for_all
from raysim.attack import Attack, ClientContext, View, Visibility
from raysim.context import Context, State
from raysim.data.client_data import ClientData
from raysim.matrix.updates import Updates
from raysim.options import Positive


@dataclass(frozen=True)
class SignFlip(Attack):
    """Submit -kappa times the honest update, the attacker's own or the benign mean.

    The attacker's own buffers stay unchanged; the benign mean, buffers included, is the same row from every attacker,
    and a round without a benign client leaves w_G. A zero update stays zero.
    """

    paper = "Damaskinos et al., ICML 2018"
    kappa: Positive = 1.0
    """Factor on the reversed update."""
    mean: Literal["own", "benign"] = "own"
    """What is reversed: the attacker's `own` update (FLPoison), or the `benign` mean (ByzFL)."""

    @property
    def visibility(self) -> Visibility:
        """Every model where the benign mean is turned around; else the attacker's own."""
        return Visibility.OMNISCIENT if self.mean == "benign" else Visibility.OWN

    @property
    def trains(self) -> bool:
        """Only where the attacker's own update is turned around."""
        return self.mean == "own"

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The honest update times -kappa."""
        update = np.array(honest_train(data), np.float32)
        update[: ctx.layout.dim] *= np.float32(-self.kappa)
        return update

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The benign mean times -kappa (mean `benign`)."""
        if view.benign is None or not view.benign.num_clients:
            return None, state
        row = -self.kappa * mean_row(view.benign, "sign_flip")
        return one_row_for_all(view.benign, view.own, "sign_flip", row), state
