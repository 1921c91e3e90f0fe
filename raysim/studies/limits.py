"""The limits that defenses are measured against: one read or copy of the matrix, and one K x K Gram product.

They are backend tasks, one per column shard, over the very tiles the defenses read and with the same workers, and
do nothing else. A rule that looks at every value cannot beat the copy, one that compares all pairs cannot beat the
product by much.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from raysim.matrix.column_tasks import BLOCK_COLUMNS
from raysim.matrix.updates import Updates


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


def _tiles(updates: Updates) -> list[tuple[object, ...]]:
    """The tiles of each column shard."""
    return [tuple(block.tiles[s] for block in updates.blocks) for s in range(len(updates.bounds) - 1)]


def _read(*tiles: np.ndarray) -> float:
    return max(float(tile.max()) for tile in tiles)


def _copy(*tiles: np.ndarray) -> int:
    return sum(tile.copy().nbytes for tile in tiles)


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
