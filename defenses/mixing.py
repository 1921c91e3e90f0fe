"""New rows that are weighted means of the old ones, formed where the columns lie."""

from __future__ import annotations

from functools import partial

import numpy as np

from raysim.matrix.exact_sums import Blocks, add_rows, constants, weighted_bounds
from raysim.matrix.row_sums import as_type
from raysim.matrix.updates import Updates


def mix_rows(
    updates: Updates,
    mixing: np.ndarray,
    *,
    client_ids: np.ndarray | None = None,
    num_examples: np.ndarray | None = None,
    stage: str = "mix",
) -> Updates:
    """The rows mixing [m, K] @ U as Updates, each within the error that `matrix.exact_sums` states for its own old rows.

    client_ids, num_examples [m]: of the new rows, whose buffers are then mixed the same way. By default the
    new rows stand for the same K clients, which keep their buffers.
    """
    maxima, used = updates.maxima(), [np.flatnonzero(weights) for weights in mixing]
    weights = [row[places] for row, places in zip(mixing, used, strict=True)]
    bounds = [
        constants(weighted_bounds(own, maxima[places])) for own, places in zip(weights, used, strict=True)
    ]
    mix = partial(_mix, used, weights, Blocks(np.array(bounds), updates.dim), client_ids is None)
    return updates.transform(stage, mix, client_ids=client_ids, num_examples=num_examples)


def _mix(
    used: list[np.ndarray],
    weights: list[np.ndarray],
    bounds: Blocks,
    keep_buffers: bool,
    columns: np.ndarray,
    first: int,
) -> np.ndarray:
    if keep_buffers and first >= bounds.dim:
        return columns
    count = columns.shape[1]
    out, tile = np.empty((len(used), count), np.float32), np.ascontiguousarray(columns)
    start, found = bounds.of(first, count)
    for row, places, own, constant in zip(out, used, weights, found, strict=True):
        total = np.zeros(count)
        if len(places):
            add_rows(total, [tile], [places], [own], constant, start)
        row[:] = as_type(total, np.float32)
    return out
