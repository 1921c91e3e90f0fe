"""Random sign projections: many parameters added up, with random signs, into few numbers.

A count sketch (Charikar, Chen and Farach-Colton, 2004; feature hashing, Weinberger et al., 2009): each parameter
is added to, or subtracted from, one of `size` numbers. Linear; inner products and squared distances are kept in
expectation, those distances with a relative standard deviation of about sqrt(2 / size). One pass over the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysim.matrix.layout import Entry
from raysim.matrix.row_stage import RowStage, read_columns
from raysim.matrix.updates import Updates


def sketch_codes(
    dim: int, size: int, generator: np.random.Generator, entries: Sequence[Entry] | None = None
) -> np.ndarray:
    """Where each parameter goes: codes [d] int32, +-(k + 1) = added to, or subtracted from, number k; 0 = left out.

    entries: the parameters to keep (default all). Where they are at most `size`, each has a number of its own.
    """
    codes = np.zeros(dim, np.int32)
    kept = (
        [np.arange(entry.start, entry.stop) for entry in entries] if entries is not None else [np.arange(dim)]
    )
    positions = np.concatenate(kept)
    if len(positions) <= size:
        codes[positions] = np.arange(1, len(positions) + 1)
    else:
        codes[positions] = generator.integers(1, size + 1, len(positions)) * generator.choice(
            (-1, 1), len(positions)
        )
    return codes


def sketch_size(codes: np.ndarray) -> int:
    """How many numbers a projection by these codes has."""
    return int(np.abs(codes).max(initial=0))


def sketch(vector: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    """A vector [c] with its codes [c] projected to [size] float64."""
    used = np.flatnonzero(codes)
    numbers, signs = np.abs(codes[used]) - 1, np.sign(codes[used]).astype(np.float32)
    kept = vector if len(used) == len(codes) else vector[used]
    return np.bincount(numbers, kept * signs, size).astype(np.float64, copy=False)


def sketch_rows(updates: Updates, codes: np.ndarray, size: int, stage: str) -> np.ndarray:
    """Every row projected by codes [d] to [K, size] float64, where it lies."""
    used = np.flatnonzero(codes)
    columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0)
    published = updates.backend.put(codes[columns])
    work = RowStage(stage, _sketch_rows, (columns, published, size), buffers=False)
    return np.array(updates.map_row_stage(work), np.float64).reshape(-1, size)


def _sketch_rows(
    rows: np.ndarray, tiles: Sequence[np.ndarray], columns: slice, codes: np.ndarray, size: int
) -> list[np.ndarray]:
    return [sketch(read_columns(row, tiles, columns)[0], codes, size) for row in rows[:, None]]
