"""Inner product manipulation, as far as the aggregation rule that is known lets it go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from attacks.line_search import LineSearched
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class OptimisedIPM(LineSearched):
    """Submit -epsilon times the benign mean update, epsilon searched against a known aggregation rule.

    Allouah et al. (AISTATS 2023) after Xie et al. (UAI 2019); see `ipm` for the attack without the search, and
    LineSearched for the search. All attackers submit the same row, its buffers are the benign mean; a round without
    a benign client leaves w_G. `factor` in the round's notes is epsilon.
    """

    paper = "Allouah et al., AISTATS 2023"

    def direction(self, benign: Updates, mean: np.ndarray) -> Callable[[float], np.ndarray]:
        """-epsilon mu of epsilon."""
        return lambda epsilon: -epsilon * mean
