"""How a task on a column shard finds its rows in the tiles of several row blocks, a few columns at a time.

The K x d matrix of a round (updates.py) is never put together, and neither is a shard of it: columns are copied
together block by block into memory that stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike

SPACING = 16
"""Values between two rows of the memory that columns are copied to: rows a power of two apart share cache sets."""


@dataclass(frozen=True)
class Grid:
    """How a column task finds its rows: the shard's columns [first, last), summed in chunks.

    whole[i]: True if the i-th `along` argument was passed uncut, by reference; the others hold the shard's columns only.
    """

    positions: list[np.ndarray]
    rows: list[np.ndarray]
    num_clients: int
    first: int
    last: int
    chunk: int
    whole: list[bool]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.last - self.first

    def walk(
        self,
        arguments: tuple[np.ndarray, ...],
        part: tuple[int, int],
        width: int,
        dtype: DTypeLike = np.float32,
        *,
        frozen: bool = True,
    ) -> Iterator[tuple[slice, tuple[np.ndarray, ...]]]:
        """(which columns of the shard, (columns [K, c], *along [..., c])) for at most `width` columns of `part` at a time.

        They are copied together as dtype, into memory that the next ones are written over. frozen: they are read-only.
        """
        count = len(self.rows)
        tiles, along = arguments[:count], arguments[count:]
        runs = [run for block in zip(self.positions, self.rows, tiles, strict=True) for run in _runs(*block)]
        buffer = np.empty((self.num_clients, width + SPACING), dtype)
        offsets = [self.first if whole else 0 for whole in self.whole]
        for start, stop in steps(*part, width):
            columns = buffer[:, : stop - start]
            for where, rows in runs:
                columns[where] = rows[:, start:stop]
            columns.flags.writeable = not frozen
            vectors = (
                v[..., offset + start : offset + stop] for v, offset in zip(along, offsets, strict=True)
            )
            yield slice(start, stop), (columns, *vectors)


def _runs(positions: np.ndarray, rows: np.ndarray, tile: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(where in the matrix, rows of the tile) for every run of rows that lie in a row in both."""
    breaks = np.flatnonzero((np.diff(positions) != 1) | (np.diff(rows) != 1)) + 1
    for first, last in pairwise([0, *breaks.tolist(), len(rows)]):
        place, row = int(positions[first]), int(rows[first])
        yield slice(place, place + last - first), tile[row : row + last - first]


def steps(first: int, last: int, width: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive ranges of at most `width` that cover [first, last)."""
    for start in range(first, last, width):
        yield start, min(start + width, last)
