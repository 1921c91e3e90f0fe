"""Sums over the columns of single rows: squared norms, and inner products with one vector, where the rows lie.

Column j of a row is added, in float64 and in column order, to number j mod LANES of as many, and these are added up at
the end. So a sum is the same however the row lies in tiles, whatever rows are worked on beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.compiled import compiled, read_only
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates

LANES = 1024
"""Partial sums of a row."""


def squared_norms(updates: Updates, stage: str = "norms") -> np.ndarray:
    """Squared Euclidean norms of the rows [K] float64."""
    return np.array(updates.map_row_stage(RowStage(stage, _squared_norms, buffers=False)), np.float64)


def products_with(updates: Updates, vector: np.ndarray | Reference, stage: str) -> np.ndarray:
    """Inner products of the rows with a vector [d], and their squared norms: [K, 2] float64."""
    found = updates.map_row_stage(RowStage(stage, _products_with, (vector,), buffers=False))
    return np.array(found, np.float64).reshape(-1, 2)


def squares_about(updates: Updates, point: np.ndarray | Reference, stage: str) -> np.ndarray:
    """Squared distances of the rows to a point [d] float64: [K] float64."""
    found = updates.map_row_stage(RowStage(stage, _squares_about, (point,), buffers=False))
    return np.array(found, np.float64)


def _squared_norms(rows: np.ndarray, tiles: Sequence[np.ndarray]) -> list[object]:
    return [_over(tiles, row, compiled(_add_squares, "total", "row", "place")) for row in rows]


def _products_with(rows: np.ndarray, tiles: Sequence[np.ndarray], vector: np.ndarray) -> list[object]:
    add = compiled(_add_products, "total", "row", "place", "numbers")
    norms, vector = _squared_norms(rows, tiles), vector.astype(np.float64)
    return [(_over(tiles, row, add, vector), norm) for row, norm in zip(rows, norms, strict=True)]


def _squares_about(rows: np.ndarray, tiles: Sequence[np.ndarray], point: np.ndarray) -> list[object]:
    add = compiled(_add_squares_about, "total", "row", "place", "numbers")
    return [_over(tiles, row, add, point) for row in rows]


def _over(tiles: Sequence[np.ndarray], row: int, add: Callable[..., None], *along: np.ndarray) -> float:
    """What `add` adds up over all columns of one row, with those of the vectors [d] beside it."""
    total, first = np.zeros(LANES), 0
    for tile in tiles:
        last = first + tile.shape[1]
        beside = (read_only(vector[first:last], np.float64) for vector in along)
        add(total, read_only(tile[row], np.float32), first % LANES, *beside)
        first = last
    return float(total.sum())


def _add_squares(total: np.ndarray, row: np.ndarray, lane: int) -> None:
    """lane: that of the first column."""
    first = 0
    while first < len(row):
        last = min(first + LANES - lane, len(row))
        out, u = total[lane:], row[first:last]
        for j in range(len(u)):
            x = np.float64(u[j])
            out[j] += x * x
        first, lane = last, 0


def _add_products(total: np.ndarray, row: np.ndarray, lane: int, vector: np.ndarray) -> None:
    first = 0
    while first < len(row):
        last = min(first + LANES - lane, len(row))
        out, u, v = total[lane:], row[first:last], vector[first:last]
        for j in range(len(u)):
            out[j] += np.float64(u[j]) * v[j]
        first, lane = last, 0


def _add_squares_about(total: np.ndarray, row: np.ndarray, lane: int, point: np.ndarray) -> None:
    first = 0
    while first < len(row):
        last = min(first + LANES - lane, len(row))
        out, u, v = total[lane:], row[first:last], point[first:last]
        for j in range(len(u)):
            x = np.float64(u[j]) - v[j]
            out[j] += x * x
        first, lane = last, 0
