"""Random sign projections: many parameters added up, with random signs, into few numbers.

A count sketch (Charikar, Chen and Farach-Colton, 2004; feature hashing, Weinberger et al., 2009): each parameter
is added to, or subtracted from, one of `size` numbers. Linear; inner products and squared distances are kept in
expectation, those distances with a relative standard deviation of about sqrt(2 / size). One pass over the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from raysim.matrix.layout import Entry


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


def sketch(columns: np.ndarray, codes: np.ndarray, size: int) -> np.ndarray:
    """Columns [K, c] with their codes [c] projected to [K, size] float64: for `Updates.reduce_columns`."""
    used = np.flatnonzero(codes)
    numbers, signs = np.abs(codes[used]) - 1, np.sign(codes[used]).astype(np.float32)
    kept = slice(None) if len(used) == len(codes) else used
    return np.array([np.bincount(numbers, row[kept] * signs, size) for row in columns], np.float64)
