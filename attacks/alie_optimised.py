"""A little is enough, as far as the aggregation rule that is known lets it go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from attacks.line_search import LineSearched
from attacks.rows import std_row
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class OptimisedALIE(LineSearched):
    """Submit mu + sign z sigma per coordinate of the benign updates, z searched against a known aggregation rule.

    Allouah et al. (AISTATS 2023) after Baruch et al. (NeurIPS 2019); see `alie` for the attack without the search, and
    LineSearched for the search. All attackers submit the same row, its buffers are the benign mean; a round without
    a benign client leaves w_G. `factor` in the round's notes is z. As in ByzFL's code sigma is added by default, with
    Bessel's correction.
    """

    paper = "Allouah et al., AISTATS 2023"
    sign: Literal[-1, 1] = 1
    """Sign of z in mu + sign z sigma (ByzFL: 1)."""
    ddof: Literal[0, 1] = 1
    """What the variance's divisor lacks of the number of rows (ByzFL: 1)."""

    def direction(self, benign: Updates, mean: np.ndarray) -> Callable[[float], np.ndarray]:
        """mu + sign z sigma of z."""
        deviation = std_row(benign, mean, "line_search", self.ddof)
        return lambda z: mean + self.sign * z * deviation
