"""The limits that defenses are measured against: one read or copy of the matrix, one K x K Gram product, and products alone.

They are backend tasks with the same workers, and do nothing else; all but the last are one per column shard, over the very tiles
the defenses read. A rule that looks at every value cannot beat the copy, one that compares all pairs cannot beat the product by
much. Products alone read and move nothing: what they do not gain from more nodes is what cores take from each other, by the
machine's clock and memory, and no division of work gets back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from raysim.backends.base import Backend, Reference
from raysim.matrix.column_tasks import BLOCK_COLUMNS
from raysim.matrix.updates import Updates

PIECES, PIECE_ROWS = 8, 512
"""Of `multiply`: half a second of one core, which 1, 2, 4 or 8 share evenly, in pieces as large as a tile of `Pairs`."""


def read_matrix(updates: Updates) -> None:
    """Read every value of every tile once: the largest of each."""
    updates.backend.map("limit: read", _read, _tiles(updates))


def copy_matrix(updates: Updates) -> None:
    """Copy every tile into new memory, once."""
    updates.backend.map("limit: copy", _copy, _tiles(updates))


def gram_product(updates: Updates, dtype: DTypeLike = np.float64) -> np.ndarray:
    """U U^T [K, K]: each task fills blocks of 4,096 columns of all rows in `dtype` and adds up block @ block.T."""
    items = [(dtype, *tiles) for tiles in _tiles(updates)]
    return cast(np.ndarray, sum(updates.backend.map("limit: gram", _gram, items)))


def multiply(backend: Backend, anchors: Sequence[Reference] = ()) -> None:
    """PIECES products of PIECE_ROWS rows in float64, each in a task of its own that makes them; the same work for any workers.

    anchors: a result on every node, to which tasks are dealt in turn; none: the backend places them.
    """
    items = [
        (number, *anchors[number % len(anchors) :][:1]) if anchors else (number,) for number in range(PIECES)
    ]
    backend.map("limit: products", _multiply, items)


def _tiles(updates: Updates) -> list[tuple[object, ...]]:
    """The tiles of each column shard."""
    return [tuple(block.tiles[s] for block in updates.blocks) for s in range(len(updates.bounds) - 1)]


def _read(*tiles: np.ndarray) -> float:
    return max(float(tile.max()) for tile in tiles)


def _copy(*tiles: np.ndarray) -> int:
    return sum(tile.copy().nbytes for tile in tiles)


def _multiply(number: int, anchor: object = None) -> float:
    rows = np.full((PIECE_ROWS, BLOCK_COLUMNS), 1.0 + number)
    return float((rows @ rows[::-1].T)[0, 0])


def _gram(dtype: DTypeLike, *tiles: np.ndarray) -> np.ndarray:
    count, width = sum(map(len, tiles)), tiles[0].shape[1]
    total = np.zeros((count, count), dtype)
    block = np.empty((count, BLOCK_COLUMNS), dtype)
    for start in range(0, width, BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, width)
        filled = block[:, : stop - start]
        first = 0
        for tile in tiles:
            filled[first : first + len(tile)] = tile[:, start:stop]
            first += len(tile)
        total += filled @ filled.T
    return total
