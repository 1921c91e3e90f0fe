"""2-means of clients by their rows of several K x K matrices, by Lloyd steps beside the tiles.

Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 1982, started by k-means++ (Arthur
and Vassilvitskii, SODA 2007) with the draws, the candidates and the rule of convergence of scikit-learn's `KMeans`, so
that both end with the same labels but for rounding. The best of several starts is taken; all starts are moved by the
same products of the matrices with a few columns, [K, number of starts], which is all that leaves a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raysim.matrix.pairs import Pairs

STARTS = 10
"""Starts, as `n_init` of KMeans."""

STEPS = 300
"""Most Lloyd steps of a start, as `max_iter` of KMeans."""

TOLERANCE = 1e-4
"""A start ends when its centres move by less than this times the mean variance of the features, as `tol` of KMeans."""

CANDIDATES = 2
"""Second centres that k-means++ tries for each start: 2 + int(log 2)."""


def two_clusters_of_rows(pairs: Pairs, stage: str, seed: int) -> np.ndarray:
    """Labels [K], 0 or 1, of 2-means on clients' rows of L matrices side by side, tiles [L, a, b]; all 0 when rows are equal."""
    points = _Points.of(pairs, stage)
    if points.total <= 0:
        return np.zeros(pairs.count, np.int32)
    labels, inertia = _lloyd(points, *_starts(points, np.random.RandomState(seed)))
    best = 0
    for start in range(1, STARTS):
        moved = labels[:, start] != labels[:, best]
        if inertia[start] < inertia[best] and moved.any() and not moved.all():
            best = start
    return labels[:, best].astype(np.int32)


@dataclass(frozen=True)
class _Points:
    """The rows around their mean: mean [L, K], mean_product [K] of the mean with every row, squares [K] of their lengths."""

    pairs: Pairs
    stage: str
    mean: np.ndarray
    along_mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs, stage: str) -> _Points:
        count = pairs.count
        mean = pairs.dot(stage, np.full((1, count, 1), 1.0 / count, np.float32))
        along = pairs.dot(stage, mean).sum(axis=0)[:, 0]
        lengths = pairs.map_rows(stage, _squared_lengths)
        mean = mean[..., 0]
        squares = np.maximum(lengths - 2.0 * along + (mean**2).sum(), 0.0)
        # What rounding leaves of equal rows.
        squares[squares <= 1e-6 * lengths] = 0.0
        return cls(pairs, stage, mean, along, squares)

    @property
    def total(self) -> float:
        """Sum of squared distances to the mean."""
        return float(self.squares.sum())

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """Some of the points: [L, K, s], around the mean."""
        chosen = np.zeros((1, self.pairs.count, len(numbers)), np.float32)
        chosen[0, numbers, np.arange(len(numbers))] = 1.0
        found: np.ndarray = self.pairs.dot(self.stage, chosen) - self.mean[..., None]
        return found

    def sums(self, members: np.ndarray) -> np.ndarray:
        """Sums of the points that each column of members [K, s] bool holds: [L, K, s]."""
        given = members.astype(np.float32)[None]
        found = self.pairs.dot(self.stage, given)
        found -= self.mean[..., None] * members.sum(axis=0)
        return found

    def products(self, vectors: np.ndarray) -> np.ndarray:
        """Inner products of all points with vectors [L, K, s]: [K, s]."""
        found: np.ndarray = self.pairs.dot(self.stage, vectors.astype(np.float32)).sum(axis=0)
        found -= np.einsum("lk,lks->s", self.mean, vectors)
        return found

    def distances(self, centres: np.ndarray) -> np.ndarray:
        """Squared distances of all points to centres [L, K, s]: [K, s]."""
        lengths = np.einsum("lks,lks->s", centres, centres)
        found: np.ndarray = np.maximum(self.squares[:, None] - 2.0 * self.products(centres) + lengths, 0.0)
        return found


def _starts(points: _Points, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Two centres [L, K, STARTS] each, by k-means++."""
    count = points.pairs.count
    even = np.full(count, np.float32(1.0) / np.float32(count))
    draws = [(random.choice(count, p=even), random.uniform(size=CANDIDATES)) for _ in range(STARTS)]
    chosen = np.array([first for first, _ in draws])
    first = points.rows(chosen)
    nearest = points.distances(first)
    nearest[chosen, np.arange(STARTS)] = 0.0
    steps = np.cumsum(nearest, axis=0)
    candidates = np.array(
        [
            np.minimum(np.searchsorted(steps[:, start], wanted * steps[-1, start]), count - 1)
            for start, (_, wanted) in enumerate(draws)
        ]
    )
    tried = points.rows(candidates.ravel())
    left = np.minimum(np.repeat(nearest, CANDIDATES, axis=1), points.distances(tried)).sum(axis=0)
    best = np.argmin(left.reshape(STARTS, CANDIDATES), axis=1)
    return first, tried[..., np.arange(STARTS) * CANDIDATES + best]


def _lloyd(points: _Points, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels [K, STARTS] bool (nearer to the second centre) and the sum of squared distances of every start."""
    count = points.pairs.count
    labels = np.zeros((count, STARTS), bool)
    seen = np.zeros(STARTS, bool)
    tolerance = TOLERANCE * points.total / count / first[..., 0].size
    moving = np.arange(STARTS)
    for _ in range(STEPS):
        low, high = first[..., moving], second[..., moving]
        now = _nearer_to_second(points, low, high)
        new_low, new_high = _means(points, now)
        shift = ((new_low - low) ** 2).sum(axis=(0, 1)) + ((new_high - high) ** 2).sum(axis=(0, 1))
        first[..., moving], second[..., moving] = new_low, new_high
        same = seen[moving] & (now == labels[:, moving]).all(axis=0)
        seen[moving], labels[:, moving] = True, now
        close = ~same & (shift <= tolerance)
        if close.any():  # the labels that belong to the last centres
            ended = moving[close]
            labels[:, ended] = _nearer_to_second(points, first[..., ended], second[..., ended])
        moving = moving[~same & ~close]
        if not len(moving):
            break
    sums = points.sums(labels)
    inertia = points.total - 2.0 * ((second - first) * sums).sum(axis=(0, 1))
    for centre, size in ((first, (~labels).sum(axis=0)), (second, labels.sum(axis=0))):
        inertia += size * (centre**2).sum(axis=(0, 1))
    return labels, inertia


def _nearer_to_second(points: _Points, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Which points lie nearer to the second centre than to the first: [K, s] bool."""
    middle = ((second**2).sum(axis=(0, 1)) - (first**2).sum(axis=(0, 1))) / 2.0
    nearer: np.ndarray = points.products(second - first) > middle
    return nearer


def _means(points: _Points, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means [L, K, s] of both clusters; neither is ever empty, a centre being the mean of some points or one."""
    sums, size = points.sums(labels), labels.sum(axis=0)
    return -sums / np.maximum(len(labels) - size, 1), sums / np.maximum(size, 1)


def _squared_lengths(rows: np.ndarray, first: int) -> np.ndarray:
    """Squared lengths [t] of rows [L, t, K]."""
    lengths: np.ndarray = np.einsum("ltk,ltk->t", rows, rows, dtype=np.float64)
    return lengths
