"""Maximum mean discrepancy between all pairs of K sample sets, from one kernel matrix in tiles.

Gretton et al., "A kernel two-sample test", JMLR 2012. The kernel is Gaussian, k(a, b) =
exp(-|a - b|^2 / (2 sigma^2)). The (K m) x (K m) kernel matrix is never held: a task makes a tile of it in float32
and sums it to one number per pair of sets.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context
from raysim.matrix.distances import distances_between
from raysim.matrix.pairs import Pairs, cut, is_whole, places

Estimator = Literal["paper", "unbiased"]

TILE_POINTS = 2048
"""Points along one side of a tile: 16 MiB of float32."""

BANDWIDTH_POINTS = 2000
"""Points that the median heuristic looks at, at most."""


def pairwise_mmd(
    samples: np.ndarray, ctx: Context, *, squared_bandwidth: float, estimator: Estimator = "paper"
) -> np.ndarray:
    """`mmd_pairs` in one array [K, K] float64, symmetric; RunError if that is too large for one process."""
    return mmd_pairs(samples, ctx, squared_bandwidth=squared_bandwidth, estimator=estimator).to_array()


def mmd_pairs(
    samples: np.ndarray, ctx: Context, *, squared_bandwidth: float, estimator: Estimator = "paper"
) -> Pairs:
    """MMD^2 between all pairs of sets, samples [K, m, o] with m >= 2: [K, K] float64.

    estimator `paper` (FLARE, equation 4): (sum_i' + sum_j' - 2 sum_ij) / (m (m - 1)), where sum' leaves out a
    sample's kernel with itself but the full cross sum has m^2 terms: MMD(R, R) = -2 / (m - 1) for m equal samples.
    `unbiased`: the cross sum over m^2, Gretton's two-sample U-statistic.
    """
    count, size = samples.shape[:2]
    divisor = size * (size - 1) if estimator == "paper" else size**2
    if is_whole(count):
        sums = kernel_sums(samples, ctx, squared_bandwidth)
        within = (np.diagonal(sums) - size) / (size * (size - 1))
        return Pairs.whole(_discrepancies(divisor, sums, within, within), ctx.backend)
    pairs, own = kernel_sum_pairs(samples, ctx, squared_bandwidth)
    return pairs.map_tiles("mmd", partial(_discrepancies, divisor), (own - size) / (size * (size - 1)))


def kernel_sum_pairs(samples: np.ndarray, ctx: Context, squared_bandwidth: float) -> tuple[Pairs, np.ndarray]:
    """What `kernel_sums` gives, left in tiles, and its diagonal [K]: a task per tile, which walks it in its tiles."""
    bounds = cut(len(samples))
    sides = [ctx.put(samples[first:last]) for first, last in pairwise(bounds)]
    items = [(sides[i], sides[j], i == j, squared_bandwidth) for i, j in places(bounds)]
    pairs, own = Pairs.make(ctx.backend, bounds, "mmd", _side_sums, items, ACCELERATED)
    return pairs, np.concatenate(own)


def kernel_sums(samples: np.ndarray, ctx: Context, squared_bandwidth: float) -> np.ndarray:
    """The kernel summed over all pairs of samples of two sets: [K, K] float64 for samples [K, m, o]."""
    count, size = samples.shape[:2]
    per_tile = max(1, TILE_POINTS // size)
    starts = range(0, count, per_tile)
    blocks = [(start, samples[start : start + per_tile]) for start in starts]
    sums = np.empty((count, count))
    tiles = ctx.map_pairs("mmd", _tile_sums, blocks, squared_bandwidth, needs=ACCELERATED)
    for (i, j), tile in tiles.items():
        rows, columns = slice(starts[i], starts[i] + len(tile)), slice(starts[j], starts[j] + tile.shape[1])
        sums[rows, columns] = tile
        sums[columns, rows] = tile.T
    return sums


def centred(samples: np.ndarray) -> np.ndarray:
    """Samples [..., o] minus their coordinate-wise median, which no outlier moves.

    Distances stay as they are, but their float32 products keep the digits that a common offset would take.
    """
    middle: np.ndarray = np.median(samples.reshape(-1, samples.shape[-1]), axis=0)
    shifted: np.ndarray = samples - middle.astype(samples.dtype)
    return shifted


def median_squared_distance(points: np.ndarray) -> float:
    """The median heuristic: the median squared distance between two of the points [n, o].

    Exact up to 2,000 points; beyond, over 2,000 of them, spread evenly by the golden ratio, which falls into step
    with no number of samples per set. 0 when all points are equal; the mean when just more than half are.
    """
    if len(points) > BANDWIDTH_POINTS:
        golden = (np.sqrt(5.0) - 1.0) / 2.0
        points = points[np.unique((np.arange(BANDWIDTH_POINTS) * golden % 1.0 * len(points)).astype(int))]
    above = distances_between(points, points)[np.triu_indices(len(points), 1)]
    median = float(np.median(above)) if len(above) else 0.0
    return median if median > 0 or not len(above) else float(above.mean(dtype=np.float64))


def _discrepancies(
    divisor: int, sums: np.ndarray, within: np.ndarray, others_within: np.ndarray
) -> np.ndarray:
    cross = sums / divisor
    discrepancies: np.ndarray = within[:, None] + others_within - 2.0 * cross
    return discrepancies


def _side_sums(
    left: np.ndarray, right: np.ndarray, same: bool, squared_bandwidth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel sums [a, b] float64 between the sets of two sides, and their diagonal, empty if they are not the same."""
    sums = np.empty((len(left), len(right)))
    step = max(1, TILE_POINTS // left.shape[1])
    for start in range(0, len(left), step):
        for other in range(0, start + step if same else len(right), step):
            rows, columns = slice(start, start + step), slice(other, other + step)
            place = other if same else -1
            tile = _tile_sums((start, left[rows]), (place, right[columns]), squared_bandwidth)
            sums[rows, columns] = tile
            if same:
                sums[columns, rows] = tile.T
    return sums, np.diagonal(sums).copy() if same else np.zeros(0)


def _tile_sums(
    first: tuple[int, np.ndarray], second: tuple[int, np.ndarray], squared_bandwidth: float
) -> np.ndarray:
    """Kernel sums [a, b] float64 between the sets of two blocks [a, m, o] and [b, m, o]."""
    (place, left), (other, right) = first, second
    if devices.accelerated():
        sums = _tile_sums_on_device(left, right, squared_bandwidth, same=place == other)
        return (sums + sums.T) / 2.0 if place == other else sums
    size = left.shape[1]
    kernel = distances_between(left.reshape(-1, left.shape[2]), right.reshape(-1, right.shape[2]))
    if place == other:
        np.fill_diagonal(kernel, 0.0)
    kernel *= np.float32(-0.5 / squared_bandwidth)
    np.exp(kernel, out=kernel)
    rows = kernel.reshape(len(left), size, -1).sum(axis=1)
    sums = rows.reshape(len(left), len(right), size).sum(axis=2, dtype=np.float64)
    symmetric: np.ndarray = (sums + sums.T) / 2.0 if place == other else sums
    return symmetric


def _tile_sums_on_device(
    left: np.ndarray, right: np.ndarray, squared_bandwidth: float, *, same: bool
) -> np.ndarray:
    """The same sums before they are made symmetric, in the same precision."""
    a, b = (devices.tensor(block).flatten(0, 1) for block in (left, right))
    distances = a.square().sum(1)[:, None] + b.square().sum(1) - 2.0 * (a @ b.T)
    kernel = distances.clamp_min_(0.0)
    if same:
        kernel.fill_diagonal_(0.0)
    kernel = kernel.mul_(-0.5 / squared_bandwidth).exp_()
    sums: np.ndarray = (
        kernel.view(len(left), left.shape[1], len(right), -1).double().sum(dim=(1, 3)).cpu().numpy()
    )
    return sums
