"""SMEA: the mean of the K - f updates that vary least along their worst direction.

Allouah et al., "On the privacy-robustness-utility trilemma in distributed learning", ICML 2023 (smallest maximum
eigenvalue averaging). Published code that differs: ByzFL stands one step of the power method from a random vector in for
the largest eigenvalue; here it is the eigenvalue.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

import numpy as np

from defenses.dnc import check_minority, minority
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.errors import ConfigError
from raysim.matrix.distances import squared_distances
from raysim.matrix.updates import Updates
from raysim.options import Count
from raysim.requirement import Requirement

MOST_SETS = 2**17
"""Sets of updates that are tried: 8 of 20 clients may be malicious, 4 of 43, 3 of 93."""

SETS_PER_TASK = 2**13


@dataclass(frozen=True)
class SMEA(Defense):
    """Uniform mean of the K - f updates whose covariance has the smallest largest eigenvalue; the others are flagged.

    All C(K, f) sets are tried, so that more than 2^17 are refused. A round left with fewer rows than planned assumes
    at most floor((K - 1) / 2). Of equal sets it is the first in client order. Scores: distances to the mean of the set.

    A set's eigenvalues come from the K x K distances: those of its covariance, and of its centred Gram matrix divided
    by its size, are the same but for zeros.
    """

    paper = "Allouah et al., ICML 2023"
    judges_buffers = True
    on_buffers = (
        "it compares the covariances of sets of updates; stale honest ones widen them, and are left out more "
        "often for it"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    num_byzantine: Count | None = None
    """Assumed number f of malicious clients, 2 f < K and C(K, f) <= 2^17; null: the most of both."""

    def assumed(self, count: int) -> int | None:
        """f."""
        return tryable(self.num_byzantine, count)

    def check(self, setting: Setting) -> None:
        """2 f < K, not too many sets, and no more than one process holds."""
        setting.require_all_pairs(type(self).__name__)
        check_minority(self.num_byzantine, setting.cohort)
        most = tryable(None, setting.cohort)
        if self.num_byzantine is not None and self.num_byzantine > most:
            rule = f"must leave at most {MOST_SETS} sets of {setting.cohort} clients to try"
            raise ConfigError("num_byzantine", rule, self.num_byzantine, most)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Distances, the best set of each task, the best of all, its mean."""
        count = updates.num_clients
        num_byzantine = tryable(self.num_byzantine, count)
        distances = squared_distances(updates)
        sets = comb(count, num_byzantine)
        starts = range(0, sets, SETS_PER_TASK)
        found = ctx.map("subsets", best_set, starts, ctx.put(distances), count - num_byzantine)
        _, members = min(found, key=lambda pair: pair[0])  # of equal ones the first
        flagged = np.ones(count, bool)
        flagged[members] = False
        with ctx.stage("combine"):
            to_rows = distances[:, members].mean(axis=1)
            scores = np.sqrt(np.maximum(to_rows - to_rows[members].mean() / 2, 0.0))
        aggregate, weights = accepted_mean(updates, flagged, uniform=True)
        return Verdict(aggregate, weights, scores, flagged), state


def best_set(start: int, distances: np.ndarray, size: int) -> tuple[float, np.ndarray]:
    """(largest eigenvalue, rows [size]) of the best of SETS_PER_TASK sets from number `start`, of equal ones the first."""
    centring = np.eye(size) - 1.0 / size
    best = (np.inf, np.arange(size))
    for members in _chunks(len(distances), size, start):
        between = distances[members[:, :, None], members[:, None, :]]
        # Centred inner products of rows are -1/2 of their doubly centred squared distances.
        values = np.linalg.eigvalsh(centring @ between @ centring / -(2.0 * size))[:, -1]
        place = int(np.argmin(values))
        if values[place] < best[0]:
            best = (float(values[place]), members[place])
    return best


def _chunks(count: int, size: int, start: int, at_once: int = 512) -> Iterator[np.ndarray]:
    sets = islice(combinations(range(count), size), start, start + SETS_PER_TASK)
    while chunk := list(islice(sets, at_once)):
        yield np.array(chunk)


def tryable(num_byzantine: int | None, count: int) -> int:
    """The f that a round of K rows assumes: None is the most with 2 f < K and at most MOST_SETS sets, and the limit."""
    wanted, most = minority(num_byzantine, count), 0
    while most < wanted and comb(count, most + 1) <= MOST_SETS:  # upwards: the numbers of sets stay small
        most += 1
    return most
