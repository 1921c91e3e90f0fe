"""MDA: the mean of the K - f updates that lie closest together.

El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in Byzantium", ICML 2018, and
El Mhamdi et al., "Genuinely distributed Byzantine machine learning", PODC 2020 (minimum-diameter averaging). The set is
the exact one, as in ByzFL, which tries all C(K, f) sets.

Here the sets are not tried. K - f updates lie within a diameter t if removing f updates hits all pairs further apart than
t: a vertex cover of size f. The search for one branches on updates that lie too far from at least three others, either
these go or that one, so that it takes at most 1.47^f steps (1.4656^f = 1.4656^(f - 1) + 1.4656^(f - 3)). The smallest such
t is found by bisection over the K (K - 1) / 2 distances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.dnc import check_minority, minority
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.distances import squared_distances
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement

MOST_BYZANTINE = 30
"""Clients that may be assumed malicious: 1.47^30 is about 100,000 branches for each of a few dozen questions."""


@dataclass(frozen=True)
class MDA(Defense):
    """Uniform mean of the K - f updates whose largest distance is smallest; the f others are flagged.

    A round left with fewer rows than planned assumes at most floor((K - 1) / 2). Of several sets of one diameter it is the first in
    client order, as in ByzFL. Scores: the distance to the furthest update of the set.
    """

    paper = "El Mhamdi et al., ICML 2018"
    judges_buffers = True
    on_buffers = (
        "it compares the distances of updates; stale honest ones lie farther out, and are left out more often "
        "for it"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients, 2 f < K and f <= 30; null: the most of both."""

    def assumed(self, count: int) -> int | None:
        """f."""
        return min(minority(self.num_byzantine, count), MOST_BYZANTINE)

    def check(self, setting: Setting) -> None:
        """2 f < K, f small enough for an exact search, and no more than one process holds."""
        setting.require_all_pairs(type(self).__name__)
        check_minority(self.num_byzantine, setting.cohort)
        if self.num_byzantine is not None and self.num_byzantine > MOST_BYZANTINE:
            rule = f"must be at most {MOST_BYZANTINE}: the exact search takes up to 1.47^num_byzantine steps"
            raise ConfigError("num_byzantine", rule, self.num_byzantine, MOST_BYZANTINE)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Distances, the set, its mean."""
        num_byzantine = min(minority(self.num_byzantine, updates.num_clients), MOST_BYZANTINE)
        distances = squared_distances(updates)
        kept = ctx.run("subsets", smallest_diameter, distances, num_byzantine)
        with ctx.stage("combine"):
            scores = np.sqrt(distances[:, kept].max(axis=1))
        aggregate, weights = accepted_mean(updates, ~kept, uniform=True)
        return Verdict(aggregate, weights, scores, ~kept), state


def smallest_diameter(distances: np.ndarray, removed: int) -> np.ndarray:
    """The K - removed rows of least diameter as a mask [K], by distances [K, K]; of several sets the first."""
    candidates = np.unique(distances)
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if coverable(distances > candidates[middle], removed):
            high = middle
        else:
            low = middle + 1
    apart = distances > candidates[low]
    kept, gone = np.zeros(len(distances), bool), np.zeros(len(distances), bool)
    for row in range(len(distances)):
        if gone[row] or kept.sum() == len(distances) - removed:
            continue
        without = gone | apart[row]  # keeping a row removes what lies too far from it
        open_rows = ~(without | kept)
        open_rows[row] = False
        if coverable(apart[np.ix_(open_rows, open_rows)], removed - int(without.sum())):
            kept[row], gone = True, without
        else:
            gone[row] = True
    return kept


def coverable(apart: np.ndarray, budget: int) -> bool:
    """Whether all pairs of apart [n, n] (symmetric, bool) can be hit by removing `budget` rows."""
    degrees = apart.sum(axis=1)
    most = int(degrees.max(initial=0))
    if budget < 0 or degrees.sum() > 2 * most * budget:
        return False
    if most <= 2:
        return _paths_and_rings(apart, degrees) <= budget
    row = int(np.argmax(degrees))
    others = ~apart[row]  # either all that lie too far from this row go, or the row itself
    others[row] = False
    if most <= budget and coverable(apart[np.ix_(others, others)], budget - most):
        return True
    rest = np.delete(np.arange(len(apart)), row)
    return coverable(apart[np.ix_(rest, rest)], budget - 1)


def _paths_and_rings(apart: np.ndarray, degrees: np.ndarray) -> int:
    """The fewest rows that hit all pairs, none of which has more than two: floor(n / 2) of a path, ceil(n / 2) of a ring."""
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(apart, directed=False)
    sizes, pairs = np.bincount(labels), np.bincount(labels, degrees) / 2
    return int(np.where(pairs == sizes, (sizes + 1) // 2, sizes // 2).sum())
