"""PoisonedFL: push the model along one random direction in every round, as hard as the server lets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attacks.rows import one_row_for_all
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.updates import Updates
from raysim.options import Positive, PositiveFraction, PositiveInt


@dataclass(frozen=True)
class PoisonedFL(Attack):
    """Fake clients that submit k * s in every round: s fixed random signs, k magnitudes read off the global model.

    Xie, Fang and Gong, "Model poisoning attacks to federated learning via multi-round consistency" (CVPR 2025). The attackers
    need neither data nor other clients' updates: single rounds are harmless to them, so that defenses let some of it
    through, and what is let through adds up.

    With g = w_t - w_{t-1}, the last global update, and m what was submitted then: the magnitudes are v = |g - m |g| / |m||,
    scaled to length 1 (what others added), k = c |g| v. c begins at `factor`. Every `window` rounds it is tested whether
    the model has moved along s in that time: if by chance at least as many signs would agree with s with a probability above
    `significance` (one-sided binomial test), c is multiplied by `decay`, unless it would fall below `least_factor`. A
    parameter that did not move counts with the sign of its value, as in the published code.
    In the first round there is no g, and w_G is submitted. Rounds in which the attack rests are seen as one.
    """

    paper = "Xie et al., CVPR 2025"
    visibility: ClassVar[Visibility] = Visibility.COLLUDING
    """The attackers share the direction; they look at no update."""
    trains: ClassVar[bool] = False
    """No: fake clients have no data."""
    factor: Positive = 8.0
    """Factor c on the length of the last global update that the attack begins with (published commands: 8)."""
    window: PositiveInt = 50
    """Rounds between two tests of whether the model follows (published code: 50)."""
    significance: PositiveFraction = 0.01
    """Probability of at least as many agreeing signs above which c is lowered (published code: 0.01)."""
    decay: PositiveFraction = 0.7
    """Factor on c when the model does not follow (published code: 0.7)."""
    least_factor: Positive = 0.5
    """What c is not lowered below (published code: 0.5)."""

    def init(self, ctx: Context) -> State:
        """Nothing seen or sent."""
        return {"factor": float(self.factor), "rounds": 0, "global": None, "tested": None, "sent": None}

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """The same row k * s for every attacker."""
        now = ctx.global_parameters
        if state["global"] is None:
            return None, {**state, "rounds": 1, "global": now.copy(), "tested": now.copy()}
        signs = ctx.lasting_generator("signs").choice((-1.0, 1.0), len(now))
        state = dict(state)
        if state["rounds"] % self.window == 0:
            state |= self._tested(state, signs, now)
        step = now.astype(np.float64) - state["global"]
        length = float(np.linalg.norm(step))
        others = step if state["sent"] is None else step - at_length(state["sent"], length)
        row = state["factor"] * length * at_length(np.abs(others), 1.0) * signs
        state |= {"rounds": state["rounds"] + 1, "global": now.copy(), "sent": row.astype(np.float32)}
        return one_row_for_all(view.own, view.own, "poisoned_fl", row), state

    def diagnostics(self, state: State) -> Diagnostics:
        """factor: c; aligned: the share of signs that agreed in the last test."""
        aligned = {"aligned": state["aligned"]} if "aligned" in state else {}
        return {"factor": state["factor"], **aligned}

    def _tested(self, state: State, signs: np.ndarray, now: np.ndarray) -> State:
        """What the test changes."""
        from scipy.stats import binom

        moved = now - state["tested"]
        agree = int((np.sign(np.where(moved == 0, now, moved)) == signs).sum())
        chance = float(binom.sf(agree - 1, len(signs), 0.5))
        factor = state["factor"]
        if chance > self.significance and factor * self.decay >= self.least_factor:
            factor *= self.decay
        return {"factor": factor, "tested": now.copy(), "aligned": agree / len(signs)}


def at_length(vector: np.ndarray, length: float) -> np.ndarray:
    """The vector scaled to a length, float64; a zero vector stays."""
    wide = vector.astype(np.float64)
    own = float(np.linalg.norm(wide))
    scaled: np.ndarray = wide * (length / own) if own > 0 else wide
    return scaled
