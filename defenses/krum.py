"""Krum: the one update that lies closest to its neighbours.

Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NIPS 2017.

The distances are squared and each row is scored by its K - f - 2 nearest others, as in the paper; the code of
FedML and of Wang et al. does the same. Published code that differs: FLPoison, Bhagoji et al. and CosDefense do not
square (option `squared`); FLPoison and ByzFL take K - f - 1 neighbours, CosDefense K - f - 3 (option `neighbours`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.pair_distances import nearest_scores, pair_distances
from raysim.matrix.updates import Updates
from raysim.options import Count, PositiveInt
from raysim.requirement import Requirement


@dataclass(frozen=True)
class Krum(Defense):
    """The single update with the smallest summed squared distance to its nearest neighbours.

    A round that is left with fewer rows than planned assumes at most K - 3. The winner has weight 1 and all others 0.
    `flagged` marks the f highest scores only: the others lose without being accused, so that detection rates mean the
    same as for rules that keep K - f clients.
    """

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
    squared: bool = True
    """Whether squared distances are summed, or plain ones."""
    neighbours: PositiveInt | None = None
    """Nearest others that a score sums over, at most K - 1; null: K - f - 2."""

    def assumed(self, count: int) -> int | None:
        """f."""
        return assumed_byzantine(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """K >= 2 f + 3."""
        check_cohort(self.num_byzantine, setting.cohort)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """The update of the lowest score; the first one when K <= 2."""
        num_byzantine = assumed_byzantine(self.num_byzantine, updates.num_clients)
        distances = pair_distances(updates)
        scores = nearest_scores(
            distances, "krum", num_byzantine, squared=self.squared, neighbours=self.neighbours
        )
        ranking = np.argsort(scores, kind="stable")
        weights = np.zeros(updates.num_clients)
        weights[ranking[0]] = 1.0
        flagged = np.zeros(updates.num_clients, bool)
        flagged[ranking[updates.num_clients - num_byzantine :]] = True
        return Verdict(updates.combine(weights), weights, scores, flagged), state


def assumed_byzantine(num_byzantine: int | None, count: int) -> int:
    """The f that a round of K rows assumes: None is the most tolerated, and K - 3 the limit."""
    if num_byzantine is None:
        return max((count - 3) // 2, 0)
    return min(num_byzantine, max(count - 3, 0))


def check_cohort(num_byzantine: int | None, cohort: int) -> None:
    """ConfigError unless K >= 2 f + 3."""
    most = max((cohort - 3) // 2, 0)
    if num_byzantine is not None and num_byzantine > most:
        raise ConfigError(
            "num_byzantine",
            f"must leave 2 * num_byzantine + 3 <= {cohort}, the clients in a round",
            num_byzantine,
            most,
        )
