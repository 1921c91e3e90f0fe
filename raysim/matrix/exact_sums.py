"""Sums over rows that are the same bits in any order and any grouping: the one way in which rows are added.

Pre-rounding (Demmel and Nguyen, "Fast reproducible floating-point summation", ARITH 2013, with one level). For every
BLOCK of columns a constant C = 1.5 * 2^e is chosen that outweighs each term, and each term is rounded to a multiple of
g = 2^(e - 52), the spacing of float64 numbers near C, before it is added:

    q_ij = (C + w_i u_ij) - C,    s_j = sum_i q_ij

Every q and every partial sum is a multiple of g below 2^53 g, so float64 adds them without rounding: rows may be
added where they lie, in any order, and partial sums may be added wherever they meet. C follows from
the bounds b_i = |w_i| max_j |u_ij| over the block, of which the maxima are taken once, when rows are made (`largest`):
2^(e - 1) >= max_i b_i =: M, and 2^(e + 1) > sum_i b_i =: B, which is itself summed exactly. Blocks are counted from
the first column, whatever tiles, chunks or hosts there are.

Error, before the one rounding to float32, for K rows of weight other than 0:

    |s_j - sum_i w_i u_ij| <= 1.02 K 2^-53 max(B, 4 M) + 2^-53 B + K 2^-1075

It is relative to the *largest* values of the block. With K = 48 rows that weigh the same, values down to B / 2^23 keep
all digits of float32, those below B / 2^48 are lost. Constants per column would keep these too, but need the largest
value of every column among the rows that are summed: a second pass, and d more numbers from every host. One row
alone is not rounded at all. K is at most MOST_ROWS. Values: any finite float32, and weights for which B <= 2^1020;
where B is infinite or not a number, the block's sums are not numbers. No sum is -0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raysim.matrix.compiled import compiled, read_only

BLOCK = 4096
"""Columns that share a constant."""

MOST_ROWS = 2**23
"""Rows that can be summed: the bound B is then a sum of that many integers of 30 bits, exact in float64."""

PIECE = 8 * BLOCK
"""Columns whose sums stay in the cache while rows of several tiles are added."""

TOGETHER = 8
"""Rows that the compiled loop reads side by side."""

ADDED = ("total", "tile", "place", "places", "numbers", "numbers", "place")
"""Kinds of the compiled loop's arguments."""


def blocks_of(columns: int) -> int:
    """Number of blocks that this number of columns makes."""
    return -(-columns // BLOCK)


def largest(rows: np.ndarray, first: int = 0) -> np.ndarray:
    """The largest |value| of every row [k, c] in each block that its columns touch: [k, blocks] in the rows' precision.

    first: the column at which the rows begin. NaN if there is one, infinity if there is one.

    >>> largest(np.array([[1.0, -3.0, 2.0]]))
    array([[3.]])
    """
    parts = [np.maximum(part.max(axis=1), -part.min(axis=1)) for _, part in _by_block(rows, first)]
    return np.stack(parts, axis=1) if parts else np.zeros((len(rows), 0), rows.dtype)


def largest_in(parts: Sequence[tuple[int, np.ndarray]], columns: int) -> np.ndarray:
    """Put together what `largest` says of several pieces, (first column, maxima) each: [k, blocks of `columns`]."""
    count = max((len(found) for _, found in parts), default=0)
    together = np.zeros((count, blocks_of(columns)), np.float32)
    for first, found in parts:
        place = first // BLOCK
        here = together[:, place : place + found.shape[1]]
        np.maximum(here, found, out=here)
    return together


def constants(bounds: np.ndarray) -> np.ndarray:
    """C [n] of n blocks from bounds [K, n] >= 0 on the |terms| of K rows; zeros where K is 1: nothing is rounded."""
    count = len(bounds)
    if count > MOST_ROWS:
        raise ValueError(f"at most {MOST_ROWS} rows can be summed; got {count}")
    if count < 2:
        return np.where(np.isfinite(bounds.sum(axis=0)), 0.0, np.nan)
    top = bounds.max(axis=0)
    scale = 30 - np.frexp(top)[1]
    # Integers of up to 30 bits: their sum does not depend on the order. The slack is more than what rounding adds.
    total = np.ceil(np.ldexp(bounds, scale)).sum(axis=0) * (1 + 2.0**-20)
    exponent = np.maximum(np.frexp(top)[1] + 1, np.frexp(total)[1] - scale - 1)
    exponent = np.maximum(exponent, -1022)  # g is then the least subnormal number
    usable = np.isfinite(top) & (exponent <= 1022)
    return np.where(usable, np.ldexp(1.5, np.where(usable, exponent, 0)), np.nan)


@dataclass(frozen=True)
class Blocks:
    """Something of every block [..., n + m]: of the n blocks of `dim` parameters, then of the buffers' m."""

    values: np.ndarray
    dim: int

    def of(self, first: int, count: int) -> tuple[int, np.ndarray]:
        """(the first column, counted from where its blocks are, values of the blocks that the columns touch)."""
        after, start = (blocks_of(self.dim), first - self.dim) if first >= self.dim else (0, first)
        return start, self.values[..., after + start // BLOCK : after + blocks_of(start + count)]


def weighted_bounds(weights: np.ndarray, maxima: np.ndarray) -> np.ndarray:
    """Bounds [K, n] for `constants` on w_i u_ij from weights [K] and maxima [K, n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        bounds: np.ndarray = np.abs(weights)[:, None] * maxima
    return bounds


def squared_bounds(weights: np.ndarray, maxima: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Bounds [K, n] for `constants` on w_i (u_ij - c_j)^2; centre [n]: the largest |c_j| of every block."""
    with np.errstate(over="ignore", invalid="ignore"):
        bounds: np.ndarray = np.abs(weights)[:, None] * (maxima.astype(np.float64) + centre) ** 2
    return bounds


def add_rows(
    total: np.ndarray,
    tiles: Sequence[np.ndarray],
    rows: Sequence[np.ndarray],
    weights: Sequence[np.ndarray],
    constants: np.ndarray,
    first: int = 0,
    centre: np.ndarray | None = None,
) -> None:
    """Add the pre-rounded w_i u_ij of some rows to total [c] float64; with a centre [c] float64, w_i (u_ij - c_j)^2.

    tiles: contiguous float32 arrays [k, c], which begin at column `first`; rows, weights: those to add of each.
    constants: of the blocks that these columns touch.
    """
    parts = [
        (read_only(tile, np.float32), *_filled(row, weight))
        for tile, row, weight in zip(tiles, rows, weights, strict=True)
    ]
    add, add_squares = compiled(_add, *ADDED), compiled(_add_squares, *ADDED, "numbers")
    for start in range(0, len(total), PIECE):
        piece = total[start : start + PIECE]
        before, skipped = divmod(first % BLOCK + start, BLOCK)
        for tile, row, weight in parts:
            if centre is None:
                add(piece, tile, start, row, weight, constants[before:], skipped)
            else:
                add_squares(piece, tile, start, row, weight, constants[before:], skipped, centre)


def pre_rounded(values: np.ndarray, constants: np.ndarray, first: int = 0) -> np.ndarray:
    """values [..., c] float64 rounded as terms of a sum are: any sums of them, of integer multiples too, are exact.

    first, constants: as in `add_rows`.
    """
    out = np.empty(values.shape)
    for place, (columns, part) in enumerate(_by_block(values, first)):
        rounded = out[..., columns]
        np.add(part, constants[place], out=rounded)
        rounded -= constants[place]
    return out


def _add(
    total: np.ndarray,
    tile: np.ndarray,
    start: int,
    rows: np.ndarray,
    weights: np.ndarray,
    constants: np.ndarray,
    skipped: int,
) -> None:
    """Add rows (TOGETHER at a time) of the tile's columns from `start` on; `skipped` columns of the first block lie before.

    (C + x) + (y - C) is q(x) + q(y), exactly, and takes one operation less.
    """
    first, block = 0, 0
    while first < len(total):
        last = min((block + 1) * BLOCK - skipped, len(total))
        c, out = constants[block], total[first:last]
        a, b = start + first, start + last
        for i in range(0, len(rows), TOGETHER):
            w0, w1, w2, w3 = weights[i], weights[i + 1], weights[i + 2], weights[i + 3]
            w4, w5, w6, w7 = weights[i + 4], weights[i + 5], weights[i + 6], weights[i + 7]
            u0, u1, u2, u3 = (
                tile[rows[i], a:b],
                tile[rows[i + 1], a:b],
                tile[rows[i + 2], a:b],
                tile[rows[i + 3], a:b],
            )
            u4, u5, u6, u7 = (
                tile[rows[i + 4], a:b],
                tile[rows[i + 5], a:b],
                tile[rows[i + 6], a:b],
                tile[rows[i + 7], a:b],
            )
            for j in range(len(out)):
                left = ((c + w0 * u0[j]) + (w1 * u1[j] - c)) + ((c + w2 * u2[j]) + (w3 * u3[j] - c))
                right = ((c + w4 * u4[j]) + (w5 * u5[j] - c)) + ((c + w6 * u6[j]) + (w7 * u7[j] - c))
                out[j] += left + right
        first, block = last, block + 1


def _add_squares(
    total: np.ndarray,
    tile: np.ndarray,
    start: int,
    rows: np.ndarray,
    weights: np.ndarray,
    constants: np.ndarray,
    skipped: int,
    centre: np.ndarray,
) -> None:
    """The same of the squared differences to the centre."""
    first, block = 0, 0
    while first < len(total):
        last = min((block + 1) * BLOCK - skipped, len(total))
        c, out = constants[block], total[first:last]
        a, b = start + first, start + last
        middle = centre[a:b]
        for i in range(0, len(rows), 2):
            w0, w1 = weights[i], weights[i + 1]
            u0, u1 = tile[rows[i], a:b], tile[rows[i + 1], a:b]
            for j in range(len(out)):
                x, y = u0[j] - middle[j], u1[j] - middle[j]
                out[j] += (c + w0 * (x * x)) + (w1 * (y * y) - c)
        first, block = last, block + 1


def _filled(rows: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers and weights, up to a multiple of TOGETHER: the last row again, of weight 0, which adds nothing."""
    missing = -len(rows) % TOGETHER
    rows = np.asarray(rows, np.int64)
    return (
        np.concatenate([rows, np.full(missing, rows[-1])]) if missing else np.ascontiguousarray(rows),
        np.concatenate([np.asarray(weights, np.float64), np.zeros(missing)]),
    )


def _by_block(values: np.ndarray, first: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(columns, values there) block by block; the values [..., c] begin at column `first`."""
    width = values.shape[-1]
    start = 0
    while start < width:
        stop = min(width, start + BLOCK - (first + start) % BLOCK)
        yield slice(start, stop), values[..., start:stop]
        start = stop
