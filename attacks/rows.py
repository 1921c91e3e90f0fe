"""What several crafting attacks need: the honest rows together, and statistics of them formed where they lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raysim.attack import View
from raysim.matrix.updates import Updates


def everyone(view: View) -> Updates:
    """The benign rows and the rows the attackers trained, in client-id order."""
    return view.own if view.benign is None else view.benign.replace_rows(view.own)


def mean_row(rows: Updates, stage: str) -> np.ndarray:
    """The mean of the rows [d] float64, within the error that `matrix.exact_sums` states."""
    return rows.sum_rows(np.ones(rows.num_clients), stage) / rows.num_clients


def std_row(rows: Updates, mean: np.ndarray, stage: str, ddof: int = 0) -> np.ndarray:
    """The standard deviation of the rows around `mean` [d] float64; zeros where K <= ddof.

    Within a block of `matrix.exact_sums`, deviations below about 1e-8 of the largest |u - mean| lose digits of float32.
    """
    count = rows.num_clients
    if count <= ddof:
        return np.zeros(rows.dim)
    squares = rows.sum_rows(np.ones(count), stage, squares_about=mean)
    deviation: np.ndarray = np.sqrt(squares / (count - ddof))
    return deviation


def mean_buffers(rows: Updates, stage: str) -> np.ndarray:
    """The mean of the rows' buffers [b] float32; integer counters are those of the first row."""
    return rows.combine_buffers(np.full(rows.num_clients, 1 / rows.num_clients), stage)


def one_row_for_all(source: Updates, own: Updates, stage: str, row: np.ndarray) -> Updates:
    """One row [d], held once and submitted by every client of `own`; its buffers are the mean of the source's."""
    with np.errstate(over="ignore"):  # what is not finite is the engine's to refuse
        whole = np.concatenate([row.astype(np.float32), mean_buffers(source, stage)])
    count = own.num_clients
    held = Updates.from_array(whole[None], own.backend, layout=own.layout, bounds=own.bounds)
    block = replace(held.blocks[0], positions=np.arange(count), rows=np.zeros(count, np.int64))
    return replace(own, blocks=(block,), ahead=())


def gram_with(columns: np.ndarray, row: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """For `Updates.reduce_columns`: the Gram matrix [K + 1, K + 1] float64 of K rows minus `centre` [c], and of `row` [c]."""
    rows = np.concatenate([columns.astype(np.float64) - centre, row[None]])
    products: np.ndarray = rows @ rows.T
    return products
