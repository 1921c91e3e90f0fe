"""How the clients' learning rate changes from round to round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRates:
    """The rate of round t = 0, 1, ... as a share of that of round 0.

    `exponential`: decay**t. `step`: decay**(t // period). `cosine`: (1 + cos(pi t / period)) / 2, and from round period
    on that of round period - 1 (Loshchilov & Hutter, ICLR 2017, without restarts).

    >>> [LearningRates("step", 0.1, 2).factor(t) for t in range(5)]
    [1.0, 1.0, 0.1, 0.1, 0.010000000000000002]
    >>> [round(LearningRates("cosine", period=4).factor(t), 3) for t in range(6)]
    [1.0, 0.854, 0.5, 0.146, 0.146, 0.146]
    """

    kind: Literal["exponential", "step", "cosine"] = "exponential"
    decay: float = 1.0
    period: int = 1

    def factor(self, round: int) -> float:
        """The share of round `round`."""
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * min(round, self.period - 1) / self.period)) / 2
        power: float = self.decay ** (round // self.period)
        return power
