"""Order statistics of every column of [K, c]: median, trimmed mean, mean of the values nearest the median.

Columns are sorted as rows of a transposed block that stays in the cache: numpy sorts short contiguous rows
with vector instructions, about ten times as fast as along the first axis. A column's result depends on that
column's values only, not on their order. Given a tensor, which a task with a GPU is, they answer with one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from raysim.matrix.column_tasks import Columns

if TYPE_CHECKING:
    import torch

Sorted: TypeAlias = Any
"""Sorted rows, or what is computed of them: an array or a tensor, whose types agree in nothing but what they can do."""

Even = Literal["mean", "lower", "upper"]
"""What the median of an even number of values is: the mean of the middle two, or one of them."""

BLOCK = 2048
"""Columns sorted at a time."""

STRIP = 64
"""Rows transposed at a time: few enough that their cache lines are still there when the next column needs them."""


def median(columns: Columns, *, even: Even = "mean") -> Columns:
    """The median of each column of [K, c]: [c] float32; where K is even, what `even` says of the middle two.

    >>> median(np.array([[1.0, 5.0], [4.0, 5.0], [2.0, 7.0], [9.0, 6.0]]))
    array([3. , 5.5], dtype=float32)
    """
    if even == "mean":
        return _over_sorted(columns, _middle)
    place = (len(columns) - (even == "lower")) // 2
    return _over_sorted(columns, lambda ascending: ascending[:, place])


def trimmed_mean(columns: Columns, *, trim: int) -> Columns:
    """The mean of each column of [K, c] without its `trim` lowest and `trim` highest values: [c] float32.

    Needs 2 trim < K; accumulated in float64 from the lowest value to the highest.

    >>> trimmed_mean(np.array([[1.0], [100.0], [3.0], [5.0]]), trim=1)
    array([4.], dtype=float32)
    """
    kept = len(columns) - 2 * trim
    ones = np.ones(kept)

    def mean(ascending: Sorted) -> Sorted:
        inner = _double(ascending[:, trim : trim + kept])
        return (inner @ ones if isinstance(inner, np.ndarray) else inner.sum(1)) / kept

    return _over_sorted(columns, mean)


def mean_around_median(columns: Columns, *, count: int) -> Columns:
    """The mean of the `count` values of each column of [K, c] nearest to its median: [c] float32.

    Of two values equally far from the median the lower one is nearer.

    >>> mean_around_median(np.array([[1.0], [2.0], [4.0], [9.0]]), count=2)
    array([3.], dtype=float32)
    """

    def mean(ascending: Sorted) -> Sorted:
        middle = _middle(ascending)[:, None]
        # The nearest values are neighbours in order: their window moves right as long as the value that it
        # would leave behind is farther from the median than the one that it would take in.
        spare = ascending.shape[1] - count
        first = (middle - ascending[:, :spare] > ascending[:, count:] - middle).sum(axis=1)
        if isinstance(ascending, np.ndarray):
            nearest = np.take_along_axis(ascending, first[:, None] + np.arange(count), axis=1)
            return nearest.mean(axis=1, dtype=np.float64)
        window = first[:, None] + _counting(count, ascending)
        return _double(ascending.take_along_dim(window, dim=1)).mean(1)

    return _over_sorted(columns, mean)


def _middle(ascending: Sorted) -> Sorted:
    """The median of each sorted row of [c, K]: [c] float64."""
    count = ascending.shape[1]
    low, high = ascending[:, (count - 1) // 2], ascending[:, count // 2]
    return (_double(low) + high) / 2


def ascending_blocks(columns: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """(which columns, these transposed and sorted [c', K]) for blocks of columns of [K, c], in order.

    The sorted block is written over by the next one.
    """
    count, width = columns.shape
    block = np.empty((BLOCK, count), np.float32)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        ascending = block[: stop - start]
        for row in range(0, count, STRIP):
            ascending[:, row : row + STRIP] = columns[row : row + STRIP, start:stop].T
        ascending.sort(axis=1)
        yield slice(start, stop), ascending


def _over_sorted(columns: Columns, fn: Callable[[Sorted], Sorted]) -> Columns:
    """fn(columns transposed and sorted [c', K]) -> [c'], block by block: [c] float32; of a tensor, all at once."""
    if not isinstance(columns, np.ndarray):
        found: torch.Tensor = fn(columns.T.contiguous().sort(dim=1).values)
        return found.float()
    out = np.empty(columns.shape[1], np.float32)
    for part, ascending in ascending_blocks(columns):
        out[part] = fn(ascending)
    return out


def _double(values: Sorted) -> Sorted:
    return values.astype(np.float64) if isinstance(values, np.ndarray) else values.double()


def _counting(count: int, beside: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.arange(count, device=beside.device)
