"""What one task does with the columns of its shards: `Updates` sends these functions to where the tiles lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike

from raysim.backends import devices
from raysim.matrix.column_walk import Grid, steps
from raysim.matrix.exact_sums import largest

if TYPE_CHECKING:
    import torch

Columns = TypeVar("Columns", np.ndarray, "torch.Tensor")
"""Arrays, or tensors on the device that a task with `Needs.accelerated` has been given."""

BLOCK_COLUMNS = 4096
"""Columns that `map_columns` and `reduce_columns` give to their function at a time; a chunk is a multiple of it."""

TRANSFORM_COLUMNS = 4 * BLOCK_COLUMNS
"""Columns that `transform` gives to its function at a time."""


def map_shards(fn: Callable[..., np.ndarray], dtype: DTypeLike, count: int, *arguments: object) -> np.ndarray:
    """The results of `count` consecutive shards, whose arguments follow each other, in one vector."""
    each = len(arguments) // count
    parts = []
    for grid, *rest in (arguments[first : first + each] for first in range(0, count * each, each)):
        shard = cast(Grid, grid)
        along = cast("tuple[np.ndarray, ...]", tuple(rest))
        parts += [np.array(_array(fn(*block))) for block in _blocks(shard, along, (0, shard.width), dtype)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def reduce_shard(
    fn: Callable[..., np.ndarray], dtype: DTypeLike, grid: Grid, *arguments: np.ndarray
) -> list[np.ndarray]:
    """fn's results added up per chunk of the shard, one array a chunk."""
    sums = []
    for chunk in steps(0, grid.width, grid.chunk):
        total: np.ndarray | None = None
        for block in _blocks(grid, arguments, chunk, dtype):
            result = _array(fn(*block))
            total = np.array(result) if total is None else total + result
        assert total is not None, "a chunk has columns"
        sums.append(total)
    return sums


def transform_shard(
    fn: Callable[..., np.ndarray], count: int, grid: Grid, *arguments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """New rows [count, c] float32 for the columns of the shard, to be left there, and what `largest` says of them."""
    out = np.empty((count, grid.width), np.float32)
    for part, (columns, *along) in grid.walk(arguments, (0, grid.width), TRANSFORM_COLUMNS):
        out[:, part] = fn(columns, grid.first + part.start, *along)
    return out, largest(out, grid.first)


def slice_rows(rows: np.ndarray, pieces: list[slice], *tiles: np.ndarray) -> np.ndarray:
    """Rows of several tiles, one piece of columns of each, side by side."""
    return np.concatenate([tile[rows, piece] for tile, piece in zip(tiles, pieces, strict=True)], axis=1)


def gram(columns: Columns) -> Columns:
    """Inner products of the rows [K, K]."""
    products: Columns = columns @ columns.T
    return products


def centred_gram(columns: Columns, centre: Columns) -> Columns:
    """Inner products of the rows minus `centre` [c]: [K, K]."""
    return gram(columns - centre)


def _blocks(
    grid: Grid, arguments: tuple[np.ndarray, ...], part: tuple[int, int], dtype: DTypeLike
) -> Iterator[tuple[object, ...]]:
    """What a function of columns is given, `part` of the shard at a time: few columns, which stay in the cache.

    Where the task has a GPU, tensors there instead, of a chunk at a time, and all in the columns' type: it is rather
    calls and copies that cost there.
    """
    if not devices.accelerated():
        for _, block in grid.walk(arguments, part, BLOCK_COLUMNS, dtype):
            yield block
        return
    import torch

    wanted = torch.float64 if np.dtype(dtype) == np.float64 else torch.float32
    for _, block in grid.walk(arguments, part, grid.chunk, frozen=False):
        yield tuple(devices.tensor(values).to(wanted) for values in block)


def _array(result: np.ndarray | torch.Tensor) -> np.ndarray:
    array: np.ndarray = result if isinstance(result, np.ndarray) else result.cpu().numpy()
    return array
