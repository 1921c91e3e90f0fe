"""What several crafting attacks need: the honest rows together, and sums that do not depend on tiling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from raysim.attack import View
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates


def everyone(view: View) -> Updates:
    """The benign rows and the rows the attackers trained, in client-id order."""
    return view.own if view.benign is None else view.benign.replace_rows(view.own)


def mean_row(columns: np.ndarray) -> np.ndarray:
    """The mean over rows of [K, c], float64 [c], added row by row, whatever the number of columns."""
    return _sum_rows(columns, lambda row: row) / len(columns)


def std_row(columns: np.ndarray, mean: np.ndarray, ddof: int = 0) -> np.ndarray:
    """The standard deviation over rows of [K, c] around `mean` [c], float64; zeros where K <= ddof."""
    if len(columns) <= ddof:
        return np.zeros(columns.shape[1])
    return np.sqrt(_sum_rows(columns, lambda row: (row - mean) ** 2) / (len(columns) - ddof))


def one_row_for_all(
    source: Updates, own: Updates, stage: str, fn: Callable[..., np.ndarray], *along: Any
) -> Updates:
    """One row, fn(columns [K, c] of source, *along [c]) -> [c], submitted by every client of `own`.

    The row is made and held once. Its buffers are the mean of the source's, counters those of its first row.
    """
    crafted = source.transform(
        stage, partial(_parameters_or_buffers, fn, source.layout), *along, client_ids=own.client_ids[:1]
    )
    count = own.num_clients
    block = replace(crafted.blocks[0], positions=np.arange(count), rows=np.zeros(count, np.int64))
    return replace(crafted, client_ids=own.client_ids, num_examples=own.num_examples, blocks=(block,))


def gram_with(
    columns: np.ndarray, extra: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """For `Updates.reduce_columns`: the Gram matrix [K + e, K + e] float64 of K rows and e rows made from them.

    extra(block [K, c] float64) -> (rows [K, c] to use, made rows [e, c]).
    """
    rows = np.concatenate(extra(columns.astype(np.float64)))
    products: np.ndarray = rows @ rows.T
    return products


def buffer_row(columns: np.ndarray, layout: Layout) -> np.ndarray:
    """The mean over rows of the buffer columns [K, b]; integer counters are copied from the first row."""
    row = mean_row(columns).astype(np.float32)
    counters = layout.counter_columns()
    row[counters] = columns[0, counters]
    return row


def _parameters_or_buffers(
    fn: Callable[..., np.ndarray], layout: Layout, columns: np.ndarray, first: int, *along: np.ndarray
) -> np.ndarray:
    row = buffer_row(columns, layout) if first >= layout.dim else fn(columns, *along)
    return row[None, :]


def _sum_rows(columns: np.ndarray, term: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    total = np.zeros(columns.shape[1])
    for row in columns:
        total += term(row)
    return total
