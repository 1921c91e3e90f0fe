"""Detectors around an aggregation rule: judge by what the rule does, then apply it again to who is left."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from defenses.krum import assumed_byzantine, check_cohort
from defenses.order_statistics import median, trimmed_mean
from raysim.backends.base import ACCELERATED
from raysim.context import Setting
from raysim.defense import Defense, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.distances import krum_scores
from raysim.matrix.pair_distances import pair_distances
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement


@dataclass(frozen=True)
class RuleDefense(Defense):
    """Base: a rule, and what it assumes.

    A round left with fewer clients than planned assumes as much as they tolerate. Of the clients that are left after a
    removal the papers say only that they are aggregated.
    """

    needs = frozenset({Requirement.GRAM, Requirement.ORDER_STATISTICS})
    rule: str = "krum"
    """Rule that aggregates, and whose workings are judged."""
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients (krum: K >= 2 f + 3); null: the most that K tolerates."""
    trim: Count | None = None
    """Values that trimmed_mean drops on each side, 2 trim < K; null: num_byzantine, or a fifth of K."""
    after_removal: Literal["fewer", "same"] = "fewer"
    """Malicious clients assumed among those left: `fewer` by the number removed, or the `same` as of
    all K, cut to what the rest bears."""

    def assumed(self, count: int) -> int | None:
        """f if the rule is krum."""
        return assumed_byzantine(self.num_byzantine, count) if self.rule == "krum" else self.num_byzantine

    def needed(self) -> frozenset[Requirement]:
        """What the rule works with, beside what is asked of every rule."""
        by_rule = {
            "krum": {Requirement.GRAM},
            "trimmed_mean": {Requirement.ORDER_STATISTICS},
            "median": {Requirement.ORDER_STATISTICS},
        }
        return self.needs - RuleDefense.needs | by_rule.get(self.rule, set())

    def check(self, setting: Setting) -> None:
        """What the rule needs of a round's K clients."""
        if self.rule == "krum":
            setting.require_all_pairs(type(self).__name__)
            check_cohort(self.num_byzantine, setting.cohort)
        elif self.rule == "trimmed_mean":
            key = "num_byzantine" if self.trim is None else "trim"
            trim = getattr(self, key)
            if trim is not None and 2 * trim >= setting.cohort:
                rule = f"must be less than half of {setting.cohort}, the clients in a round"
                raise ConfigError(key, rule, trim, (setting.cohort - 1) // 2)

    def assumed_trim(self, count: int) -> int:
        """Values that trimmed_mean drops on each side of K."""
        wanted = self.num_byzantine if self.trim is None else self.trim
        return min(count // 5 if wanted is None else wanted, (count - 1) // 2)

    def distances(self, updates: Updates) -> np.ndarray | None:
        """The squared distances [K, K] that krum decides by; None for the other rules."""
        return pair_distances(updates).to_array() if self.rule == "krum" else None

    def reaggregate(
        self, updates: Updates, flagged: np.ndarray, distances: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(aggregate [d], weights [K] or None) of the rule on unflagged rows, f and trim as `after_removal` says.

        All flagged: a zero aggregate, so that the global model stays, and zero weights.
        """
        count, removed = updates.num_clients, int(flagged.sum())
        if removed == count or self.rule == "fedavg":
            return accepted_mean(updates, flagged)
        gone = removed if self.after_removal == "fewer" else 0
        if self.rule == "krum":
            assert distances is not None
            num_byzantine = max(0, assumed_byzantine(self.num_byzantine, count) - gone)
            weights = np.zeros(count)
            weights[krum_winner(distances, np.flatnonzero(~flagged), num_byzantine)] = 1.0
            return updates.combine(weights), weights
        rest = updates.select(~flagged) if removed else updates
        if self.rule == "median":
            return rest.map_columns("order_statistics", median, needs=ACCELERATED), None
        trim = min(max(0, self.assumed_trim(count) - gone), (rest.num_clients - 1) // 2)
        return rest.map_columns("order_statistics", partial(trimmed_mean, trim=trim), needs=ACCELERATED), None


def krum_winner(distances: np.ndarray, members: np.ndarray, num_byzantine: int) -> int:
    """The row that Krum chooses among `members` (row indices), by all rows' squared distances [K, K]."""
    f = assumed_byzantine(num_byzantine, len(members))
    return int(members[np.argmin(krum_scores(distances[np.ix_(members, members)], f))])
