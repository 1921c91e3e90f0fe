"""Multi-Krum: the mean of the updates that Krum scores best.

Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NIPS 2017. See krum.py
for the scores and their options. Published code that differs: Wang et al. weigh the selected updates by their data
(option `data_weighted`), FLPoison averages int(0.2 K) of them (option `num_selected`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.krum import assumed_byzantine, check_cohort
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.pair_distances import nearest_scores, pair_distances
from raysim.matrix.updates import Updates
from raysim.options import Count, PositiveInt
from raysim.requirement import Requirement


@dataclass(frozen=True)
class MultiKrum(Defense):
    """Mean of the updates with the smallest Krum scores; the others are flagged."""

    paper = "Blanchard et al., NIPS 2017"
    judges_buffers = True
    on_buffers = (
        "it compares the distances of updates; stale honest ones lie farther out, and count as more "
        "suspicious for it"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients, K >= 2 f + 3; null: floor((K - 3) / 2), the most that K
    tolerates."""
    num_selected: PositiveInt | None = None
    """Updates averaged; null: K - f."""
    data_weighted: bool = False
    """Whether the mean is weighted by the number of training examples."""
    squared: bool = True
    """Whether squared distances are summed, or plain ones."""
    neighbours: PositiveInt | None = None
    """Nearest others that a score sums over, at most K - 1; null: K - f - 2."""

    def assumed(self, count: int) -> int | None:
        """f."""
        return assumed_byzantine(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """K >= 2 f + 3 and num_selected <= K."""
        check_cohort(self.num_byzantine, setting.cohort)
        if self.num_selected is not None and self.num_selected > setting.cohort:
            raise ConfigError(
                "num_selected",
                f"must not exceed {setting.cohort}, the clients in a round",
                self.num_selected,
                setting.cohort,
            )

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Keep the `num_selected` lowest scores, of equal ones the first."""
        count = updates.num_clients
        num_byzantine = assumed_byzantine(self.num_byzantine, count)
        distances = pair_distances(updates)
        scores = nearest_scores(
            distances, "krum", num_byzantine, squared=self.squared, neighbours=self.neighbours
        )
        selected = np.argsort(scores, kind="stable")[: self.num_selected or count - num_byzantine]
        flagged = np.ones(count, bool)
        flagged[selected] = False
        aggregate, weights = accepted_mean(updates, flagged, uniform=not self.data_weighted)
        return Verdict(aggregate, weights, scores, flagged), state
