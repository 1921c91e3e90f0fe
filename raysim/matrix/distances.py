"""Squared Euclidean distances, and what is made of them: the one place where they are computed.

Distances between the rows of a distributed matrix come from one Gram matrix in float64: |a - b|^2 = |a|^2 + |b|^2 - 2 ab. Where two rows lie so
close together that this difference loses its digits (colluders that submit almost the same vector, models
instead of updates), the rows are shifted onto one of their own first: float32 numbers subtract exactly in
float64, and the Gram matrix of the differences has digits to spare.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from raysim.matrix.updates import Updates

CLOSE = 1e-5
"""A squared distance below this share of |a|^2 + |b|^2 is computed again from differences. The Gram matrix is
good to about 1e-14 of the norms, so that every distance keeps at least nine digits."""


def squared_distances(updates: Updates, stage: str = "gram") -> np.ndarray:
    """All squared Euclidean distances between rows [K, K] float64: symmetric, exactly 0 between equal rows."""
    return refined(updates, updates.gram(stage), stage)


def refined(updates: Updates, gram: np.ndarray, stage: str = "gram") -> np.ndarray:
    """The same from the Gram matrix [K, K] float64 of these rows, if that is at hand already."""
    distances, close = _from_gram(gram)
    while close.any():
        groups = _groups(close)
        rows = np.concatenate(groups)
        order = np.sort(rows)
        inside = [np.searchsorted(order, group) for group in groups]
        shifted = partial(_shifted_grams, inside)
        gram = updates.select(order).reduce_columns(stage, shifted, dtype=np.float64)
        close = np.zeros_like(close)
        for group, local in zip(groups, inside, strict=True):
            exact, still_close = _from_gram(gram[np.ix_(local, local)])
            distances[np.ix_(group, group)] = exact
            close[np.ix_(group, group)] = still_close
    return distances


def distances_in(gram: np.ndarray) -> np.ndarray:
    """Squared distances [n, n] in a Gram matrix [n, n] whose rows cannot be read again, clamped at 0.

    Good to about 1e-14 of the squared norms: enough for the largest distances of rows that were centred, not for
    small distances between long rows.
    """
    return _from_gram(gram)[0]


def distances_between(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Squared distances [a, b] between the points [a, o] and [b, o], in their precision, clamped at 0.

    The points should be centred: a common offset takes digits from their products.
    """
    distances = left @ right.T
    distances *= -2.0
    distances += np.einsum("ao,ao->a", left, left)[:, None]
    distances += np.einsum("bo,bo->b", right, right)
    clipped: np.ndarray = np.maximum(distances, 0.0, out=distances)
    return clipped


def krum_scores(
    distances: np.ndarray, num_byzantine: int, *, squared: bool = True, neighbours: int | None = None
) -> np.ndarray:
    """Sum over the max(1, K - f - 2) nearest other rows of the squared distances [K, K]: scores [K] float64.

    squared: False sums their square roots. neighbours: how many are summed instead, at most K - 1.
    Blanchard et al., NIPS 2017, section 4.

    >>> krum_scores(np.array([[0.0, 1.0, 9.0], [1.0, 0.0, 4.0], [9.0, 4.0, 0.0]]), 0)
    array([1., 1., 4.])
    """
    if neighbours is None:
        neighbours = nearest_of(len(distances), num_byzantine)
    return nearest_sums(distances, 0, neighbours, squared=squared)


def nearest_of(count: int, num_byzantine: int) -> int:
    """How many others Krum scores each of K = count rows by: max(1, K - f - 2)."""
    return max(count - num_byzantine - 2, 1)


def nearest_sums(rows: np.ndarray, first: int, neighbours: int, *, squared: bool = True) -> np.ndarray:
    """Krum scores [t] of a few rows [t, K] of the squared distances, the first of which is row `first`."""
    others = without_self(rows, first)
    count = rows.shape[1]
    if neighbours < count - 1:
        others = np.partition(others, neighbours - 1, axis=1)[:, :neighbours]
    if not squared:
        others = np.sqrt(others)
    scores: np.ndarray = np.sort(others, axis=1).sum(axis=1)
    return scores


def without_self(rows: np.ndarray, first: int) -> np.ndarray:
    """Rows [t, K] of a matrix of pairs, from row `first` on, without each one's entry for itself: [t, K - 1]."""
    height, count = rows.shape
    return rows[~np.eye(height, count, first, dtype=bool)].reshape(height, count - 1)


def _from_gram(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances, and which of them are too small against the norms to be trusted."""
    squares = np.diagonal(gram)
    sums = squares[:, None] + squares
    distances = np.maximum(sums - (gram + gram.T), 0.0)
    np.fill_diagonal(distances, 0.0)
    close = distances < CLOSE * sums
    np.fill_diagonal(close, False)
    return distances, close


def _groups(close: np.ndarray) -> list[np.ndarray]:
    """The connected groups of two or more rows, each with its indices in ascending order."""
    from scipy.sparse.csgraph import connected_components

    _, labels = connected_components(close, directed=False)
    return [np.flatnonzero(labels == label) for label in np.flatnonzero(np.bincount(labels) > 1)]


def _shifted_grams(groups: list[np.ndarray], columns: np.ndarray) -> np.ndarray:
    """Gram matrices of each group's rows minus its first row, in their places in [n, n]; columns [n, c] float64.

    The first row becomes zero and is close to nothing any more, so that repeating this on what is still close
    comes to an end.
    """
    total = np.zeros((len(columns), len(columns)))
    for group in groups:
        shifted = columns[group] - columns[group[0]]
        total[np.ix_(group, group)] = shifted @ shifted.T
    return total
