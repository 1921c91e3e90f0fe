"""What makes an upload unfit for use."""

from __future__ import annotations

import numpy as np

from raysim.matrix.layout import Layout

NEGATIVE_VARIANCE = "negative variance"
"""Why an upload is rejected that takes a running variance below 0: the model would answer with NaN."""


def reason_to_reject(submitted: object, layout: Layout, global_vector: np.ndarray) -> str:
    """Why an upload must not reach an aggregate ("missing", "wrong shape ...", "non-finite", "negative variance"), or "".

    Variances: global + update must be at least 0. Rounding is monotone, so that an honest client's never are below:
    local >= 0 gives fl(local - global) >= -global.
    """
    if submitted is None:
        return "missing"
    if not isinstance(submitted, np.ndarray) or not np.issubdtype(submitted.dtype, np.floating):
        return f"not an array of floats: {type(submitted).__name__}"
    if submitted.shape not in ((layout.dim,), (layout.num_columns,)):
        return f"wrong shape {submitted.shape}, expected ({layout.num_columns},)"
    with np.errstate(over="ignore"):
        held = submitted.astype(np.float32, copy=False)
    if not np.isfinite(held).all():
        return "non-finite"
    if len(held) == layout.num_columns:
        variances = layout.variance_columns
        if (global_vector[variances] + held[variances] < 0).any():
            return NEGATIVE_VARIANCE
    return ""
