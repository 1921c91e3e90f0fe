"""Inner product manipulation: a multiple of the benign mean with the sign reversed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from attacks.rows import one_row_for_all
from attacks.sign_flip import scaled_mean
from raysim.attack import Attack, View, Visibility
from raysim.context import Context, State
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class InnerProductManipulation(Attack):
    """Submit -epsilon times the benign mean update, so that the aggregate's inner product with it turns negative.

    u' = -epsilon mean(benign updates), the same row from every attacker, buffers the benign mean; a round
    without a benign client leaves w_G. A small epsilon stays near the benign updates and passes distance
    rules; a large one reverses the mean.

    Source: Xie et al., UAI 2019. epsilon there and in FLPoison 0.1 (passes Krum); Blades 1, ByzFL 2.
    """

    paper = "Xie et al., UAI 2019"
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ConfigError("epsilon", "must be positive", self.epsilon, 0.1)

    @property
    def visibility(self) -> Visibility:
        """Needs every benign update."""
        return Visibility.OMNISCIENT

    @property
    def trains(self) -> bool:
        """No: what is submitted does not depend on the attacker's own model."""
        return False

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The benign mean times -epsilon."""
        if view.benign is None or not view.benign.num_clients:
            return None, state
        return one_row_for_all(view.benign, view.own, "ipm", partial(scaled_mean, -self.epsilon)), state
