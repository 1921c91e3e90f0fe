"""2-means of clients by their rows of several K x K matrices in tiles, by Lloyd steps.

Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory 1982, started by k-means++ (Arthur
and Vassilvitskii, SODA 2007) with the draws, the candidates and the rule of convergence of scikit-learn's `KMeans`, so
that both end with the same labels but for rounding. The best of several starts is taken. What a step needs of the matrices is their
products with a few columns, [K, number of starts]. Of matrices up to READ_BYTES a task reads every tile and moves a few
starts by itself, to their ends; of larger ones the products are formed beside the tiles, which is a stage for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from raysim.matrix.pairs import Pairs, PairsHere, largest_array

STARTS = 10
"""Starts, as `n_init` of KMeans."""

STEPS = 300
"""Most Lloyd steps of a start, as `max_iter` of KMeans."""

TOLERANCE = 1e-4
"""A start ends when its centres move by less than this times the mean variance of the features, as `tol` of KMeans."""

CANDIDATES = 2
"""Second centres that k-means++ tries for each start: 2 + int(log 2)."""

READ_BYTES = 2**28
"""Tiles of a K x K of float64, or of two of float32, that one task reads for some of the starts: K = 5,792. A step takes
milliseconds of work there, less than it takes to hand it out."""

PARTS = (5, 5)
"""How many starts each task moves then. A product with two columns takes nearly as long as one with five: of tiles beyond the
cache, both read them once."""

Draws = list[tuple[int, np.ndarray]]
"""Of each start the first centre, and uniform numbers [CANDIDATES] by which candidates for the second are drawn."""


def two_clusters_of_rows(pairs: Pairs, stage: str, seed: int) -> np.ndarray:
    """Labels [K], 0 or 1, of 2-means on clients' rows of L matrices side by side, tiles [L, a, b]; all 0 when rows are equal."""
    count = pairs.count
    random, even = np.random.RandomState(seed), np.full(count, np.float32(1.0) / np.float32(count))
    draws = [(int(random.choice(count, p=even)), random.uniform(size=CANDIDATES)) for _ in range(STARTS)]
    if count <= largest_array(READ_BYTES):
        cuts = [0, *accumulate(PARTS)]
        items = [(stage, draws[first:last]) for first, last in pairwise(cuts)]
        parts = pairs.spread(stage, _moved, items, READ_BYTES)
    else:
        parts = [_moved(pairs, stage, draws)]
    labels = np.concatenate([labels for labels, _ in parts], axis=1)
    inertia = np.concatenate([inertia for _, inertia in parts])
    best = 0
    for start in range(1, STARTS):
        moved = labels[:, start] != labels[:, best]
        if inertia[start] < inertia[best] and moved.any() and not moved.all():
            best = start
    return labels[:, best].astype(np.int32)


def _moved(pairs: Pairs | PairsHere, stage: str, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Where some starts end: labels [K, starts] bool, and the sum of squared distances of each."""
    points = _Points.of(pairs, stage)
    if points.total <= 0:
        return np.zeros((pairs.count, len(draws)), bool), np.zeros(len(draws))
    return _lloyd(points, *_starts(points, draws))


@dataclass(frozen=True)
class _Points:
    """The rows around their mean: mean [L, K], mean_product [K] of the mean with every row, squares [K] of their lengths."""

    pairs: Pairs | PairsHere
    stage: str
    mean: np.ndarray
    along_mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pairs: Pairs | PairsHere, stage: str) -> _Points:
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


def _starts(points: _Points, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Two centres [L, K, starts] each, by k-means++."""
    count, starts = points.pairs.count, np.arange(len(draws))
    chosen = np.array([first for first, _ in draws])
    first = points.rows(chosen)
    nearest = points.distances(first)
    nearest[chosen, starts] = 0.0
    steps = np.cumsum(nearest, axis=0)
    candidates = np.array(
        [
            np.minimum(np.searchsorted(steps[:, start], wanted * steps[-1, start]), count - 1)
            for start, (_, wanted) in enumerate(draws)
        ]
    )
    tried = points.rows(candidates.ravel())
    left = np.minimum(np.repeat(nearest, CANDIDATES, axis=1), points.distances(tried)).sum(axis=0)
    best = np.argmin(left.reshape(len(draws), CANDIDATES), axis=1)
    return first, tried[..., starts * CANDIDATES + best]


def _lloyd(points: _Points, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels [K, starts] bool (nearer to the second centre) and the sum of squared distances of every start."""
    count, starts = points.pairs.count, first.shape[-1]
    labels = np.zeros((count, starts), bool)
    seen = np.zeros(starts, bool)
    tolerance = TOLERANCE * points.total / count / first[..., 0].size
    moving = np.arange(starts)
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
