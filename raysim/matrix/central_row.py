"""The row with the least Krum score, if the scores themselves are not asked for: most work is done in float32.

Scores from rough distances come with bounds. Rows whose score may be the least are scored once more in float64, as all
would be; where these are many, or too close to others for products to tell, all are.
"""

from __future__ import annotations

import numpy as np

from raysim.matrix.distances import CLOSE, nearest_of, nearest_sums, without_self
from raysim.matrix.pair_distances import (
    ROUGH,
    nearest_scores,
    pair_distances,
    products_with_rows,
    rough_distances,
)
from raysim.matrix.pairs import is_whole
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates

LEAST, MOST = 1e-25, 1e30
"""Squared norms (but 0) between which no product of float32 overflows, and none that underflows matters."""

MOST_CANDIDATES = 64
"""More rows are not scored once more by themselves."""


def central_row(updates: Updates, num_byzantine: int, stage: str = "closeness") -> int:
    """The position of the row with the least Krum score (distances.py), the first of equals.

    Rows whose scores differ by less than float64's rounding are as equal.
    """
    count = updates.num_clients
    squares = np.zeros(0) if is_whole(count) else squared_norms(updates, "gram")
    positive = squares[squares > 0]
    if len(positive) and positive.min() >= LEAST and positive.max() <= MOST:
        neighbours = nearest_of(count, num_byzantine)
        rounding = 2.0**-50 * (updates.dim + count)  # of sums of that many terms in float64, at most
        distances = rough_distances(updates, squares)
        bounds = distances.map_rows(stage, score_bounds, np.sqrt(squares), neighbours, rounding)
        del distances
        candidates = np.flatnonzero(bounds[:, 0] <= bounds[:, 1].min())
        if len(candidates) <= MOST_CANDIDATES and not bounds[candidates, 2].any():
            scores = _scores(updates, candidates, squares, neighbours)
            return int(candidates[np.argmin(scores)])
    scores = nearest_scores(pair_distances(updates), stage, num_byzantine)
    return int(np.argmin(scores))


def score_bounds(
    rows: np.ndarray, first: int, norms: np.ndarray, neighbours: int, rounding: float = 0.0
) -> np.ndarray:
    """(Least, largest score that each of some rows may have, 1 where it may be close to another) [t, 3].

    rows [t, K]: rough squared distances, the first of row number `first`; norms [K] of all rows. rounding: what float64
    itself may be off by, as a share of |a|^2 + |b|^2.
    """
    own = norms[first : first + len(rows), None]
    sums = own**2 + norms**2
    error = ROUGH * own * norms + rounding * sums
    close = rows - error < CLOSE * sums
    close[np.arange(len(rows)), first + np.arange(len(rows))] = False
    least = _smallest(np.maximum(rows - error, 0.0), first, neighbours)
    largest = _smallest(rows + error, first, neighbours)
    return np.stack([least, largest, close.any(axis=1)], axis=1)


def _smallest(rows: np.ndarray, first: int, neighbours: int) -> np.ndarray:
    """Sums [t] of the smallest values of each row but its own; not in their order, as of scores: `rounding` allows for it."""
    others = without_self(rows, first)
    sums: np.ndarray = np.partition(others, neighbours - 1, axis=1)[:, :neighbours].sum(axis=1)
    return sums


def _scores(updates: Updates, members: np.ndarray, squares: np.ndarray, neighbours: int) -> np.ndarray:
    """Krum scores of some rows, members [c]: [c] float64."""
    products = products_with_rows(updates, members)
    distances = np.maximum(squares[members, None] + squares - 2.0 * products.T, 0.0)
    scores = [nearest_sums(distances[[n]], int(row), neighbours)[0] for n, row in enumerate(members)]
    return np.array(scores)
