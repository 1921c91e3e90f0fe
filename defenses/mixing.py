"""New rows that are weighted means of the old ones, formed where the columns lie."""

from __future__ import annotations

from functools import partial

import numpy as np

from raysim.matrix.updates import Updates


def mix_rows(
    updates: Updates,
    mixing: np.ndarray,
    *,
    client_ids: np.ndarray | None = None,
    num_examples: np.ndarray | None = None,
    stage: str = "mix",
) -> Updates:
    """The rows mixing [m, K] @ U, accumulated in float64, as Updates.

    client_ids, num_examples [m]: of the new rows, whose buffers are then mixed the same way. By default the
    new rows stand for the same K clients, which keep their buffers.
    """
    dim = updates.dim if client_ids is None else None
    return updates.transform(
        stage, partial(_mix, mixing, dim), client_ids=client_ids, num_examples=num_examples
    )


def _mix(mixing: np.ndarray, dim: int | None, columns: np.ndarray, first: int) -> np.ndarray:
    if dim is not None and first >= dim:
        return columns
    return (mixing @ columns.astype(np.float64)).astype(np.float32)
