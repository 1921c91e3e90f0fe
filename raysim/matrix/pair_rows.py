"""What tasks say of a few whole rows, or of one tile, of a symmetric K x K (pairs.py)."""

from __future__ import annotations

import numpy as np


def row_sums(rows: np.ndarray, first: int) -> np.ndarray:
    """Row sums [..., t] float64."""
    sums: np.ndarray = rows.sum(axis=-1, dtype=np.float64)
    return sums


def row_maxima(rows: np.ndarray, first: int) -> np.ndarray:
    """The largest value of every row [..., t]."""
    maxima: np.ndarray = rows.max(axis=-1)
    return maxima


def row_medians(rows: np.ndarray, first: int) -> np.ndarray:
    """The median of every row [..., t]."""
    medians: np.ndarray = np.median(rows, axis=-1)
    return medians


def row_degrees(rows: np.ndarray, first: int, threshold: float) -> np.ndarray:
    """How many values but its own lie above the threshold, of every row [..., t]."""
    above = rows > threshold
    above[..., np.arange(rows.shape[-2]), first + np.arange(rows.shape[-2])] = False
    degrees: np.ndarray = above.sum(axis=-1)
    return degrees


def pairs_above(
    threshold: float, first_row: int, first_column: int, tile: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows [e], columns [e], values [e]) above the threshold in a tile, of its own side below the diagonal only."""
    above = tile > threshold
    rows, columns = np.nonzero(np.tril(above, -1) if first_row == first_column else above)
    return first_row + rows, first_column + columns, tile[rows, columns]
