"""Bulyan: select updates by repeated Krum, then average per parameter around their median.

El Mhamdi et al., "The hidden vulnerability of distributed learning in Byzantium", ICML 2018. Krum selects
theta = K - 2 f updates one by one, each scored among those not yet selected; then each parameter is the mean of
the beta = theta - 2 f values nearest to the median of the selected ones.

Published code that differs: FLPoison trims nothing (beta = theta) and confuses indices of the shrunken set with
those of the whole one; FedML keeps one value too few; FLARE speaks of a trimmed mean instead of the values
nearest to the median.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from defenses.krum import assumed_byzantine
from defenses.order_statistics import mean_around_median
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.distances import krum_scores
from raysim.matrix.pair_distances import nearest_scores, pair_distances
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement


@dataclass(frozen=True)
class Bulyan(Defense):
    """Per parameter, the mean of the values nearest the median of the updates that repeated Krum selects.

    A round left with fewer rows than planned assumes at most floor((K - 3) / 4). `flagged` marks the 2 f updates that
    were not selected; `scores` are the Krum scores among all K. The repeated
    selection is one task at any K, which holds the K x K: at most K = 16,384.
    """

    paper = "El Mhamdi et al., ICML 2018"
    judges_buffers = True
    on_buffers = (
        "it compares and sorts updates; stale honest ones lie farther out, and are selected less often for it"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM, Requirement.ORDER_STATISTICS})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients, K >= 4 f + 3; null: floor((K - 3) / 4), the most that K
    tolerates."""

    def assumed(self, count: int) -> int | None:
        """f."""
        most = max((count - 3) // 4, 0)
        return most if self.num_byzantine is None else min(self.num_byzantine, most)

    def check(self, setting: Setting) -> None:
        """K >= 4 f + 3, and no more than one process holds."""
        setting.require_all_pairs(type(self).__name__)
        most = _tolerated(setting.cohort)
        if self.num_byzantine is not None and self.num_byzantine > most:
            raise ConfigError(
                "num_byzantine",
                f"must leave 4 * num_byzantine + 3 <= {setting.cohort}, the clients in a round",
                self.num_byzantine,
                most,
            )

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Selection on the distances, then every parameter on its own."""
        count = updates.num_clients
        most = _tolerated(count)
        num_byzantine = most if self.num_byzantine is None else min(self.num_byzantine, most)
        distances = pair_distances(updates)
        scores = nearest_scores(distances, "krum", num_byzantine)
        selected = distances.run("bulyan", select, num_byzantine)
        flagged = np.ones(count, bool)
        flagged[selected] = False
        nearest = partial(mean_around_median, count=count - 4 * num_byzantine)
        aggregate = updates.select(selected).map_columns("order_statistics", nearest, needs=ACCELERATED)
        return Verdict(aggregate, None, scores, flagged), state


def select(distances: np.ndarray, num_byzantine: int) -> np.ndarray:
    """The K - 2 f rows that repeated Krum selects from squared distances [K, K], in order of selection."""
    left = np.arange(len(distances))
    selected = []
    for _ in range(len(distances) - 2 * num_byzantine):
        winner = int(np.argmin(krum_scores(distances, assumed_byzantine(num_byzantine, len(left)))))
        selected.append(left[winner])
        left = np.delete(left, winner)
        distances = np.delete(np.delete(distances, winner, axis=0), winner, axis=1)
    return np.array(selected)


def _tolerated(count: int) -> int:
    return max((count - 3) // 4, 0)
