"""Row blocks: the update rows of a few clients, one tile per column shard, as a client host leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.exact_sums import largest, largest_in

BLOCK_BYTES = 2**29
"""A row block has at most this many bytes, but always one row."""


@dataclass(frozen=True)
class Stack:
    """Where the tiles `of` a block lie once more, below those of other blocks: in `tiles`, from row `first` on."""

    of: tuple[Reference, ...]
    tiles: tuple[Reference, ...]
    first: int


@dataclass(frozen=True)
class RowBlock:
    """Rows `rows` [m] of the tiles fill the matrix rows `positions` [m]. The last tile holds the buffers.

    maxima: what `maxima_of` says of the tiles, a row for each of theirs. stack: their copy, if there is one; it holds for
    no other tiles (stacking.py).
    """

    positions: np.ndarray
    rows: np.ndarray
    tiles: tuple[Reference, ...]
    maxima: np.ndarray
    stack: Stack | None = None


def rows_per_block(count: int, num_columns: int, workers: int) -> int:
    """How many of `count` rows a block takes, of BLOCK_BYTES at most, for at least two blocks a worker where rows suffice
    and, as far as whole rows go, equally many for each worker.

    >>> rows_per_block(24, 1000, workers=2), rows_per_block(24, 23_500_000, workers=2)
    (6, 4)
    """
    most = most_rows(num_columns)
    turns = max(2, -(-count // (most * workers)))
    return max(1, -(-count // (turns * workers)))


def most_rows(num_columns: int) -> int:
    """How many rows of this many float32 columns one block may have."""
    return max(1, BLOCK_BYTES // max(4 * num_columns, 1))


def zero_tiles(count: int, bounds: Sequence[int], num_columns: int) -> tuple[np.ndarray, ...]:
    """The tiles of a block of `count` rows, to be filled: one per column shard, and the buffers' last."""
    return tuple(
        np.zeros((count, last - first), np.float32) for first, last in pairwise((*bounds, num_columns))
    )


def put_row(tiles: Sequence[np.ndarray], row: int, values: np.ndarray) -> None:
    """Write values [d + b], or [d] where buffers stay as they are, into one row of a block."""
    start = 0
    for tile in tiles:
        part = values[start : start + tile.shape[1]]
        tile[row, : len(part)] = part
        start += tile.shape[1]


def maxima_of(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """The largest |value| of every row in each block of columns [k, n + m] float32: of d parameters, then of b buffers.

    Taken once, when rows are made; sums of rows are bounded by them (exact_sums.py).
    """
    *parameters, buffers = tiles
    first, parts = 0, []
    for tile in parameters:
        parts.append((first, largest(tile, first)))
        first += tile.shape[1]
    return put_together(parts, largest(buffers), first)


def put_together(parts: Sequence[tuple[int, np.ndarray]], buffers: np.ndarray, dim: int) -> np.ndarray:
    """The same from what `largest` says of pieces, (first column, maxima), and of the buffers."""
    return np.concatenate([largest_in(parts, dim), buffers.astype(np.float32, copy=False)], axis=1)


def cut(rows: np.ndarray, bounds: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Rows [k, d + b] as one contiguous tile per column shard, and the buffers' tile last."""
    tiles = [rows[:, first:last] for first, last in pairwise(bounds)]
    return tuple(np.ascontiguousarray(tile) for tile in (*tiles, rows[:, bounds[-1] :]))
