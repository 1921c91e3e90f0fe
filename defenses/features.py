"""What detectors look at instead of whole updates: the last layer, or principal components."""

from __future__ import annotations

import numpy as np

from raysim.context import Context
from raysim.matrix.updates import Updates


def head_updates(updates: Updates, ctx: Context, *, bias: bool = True) -> np.ndarray:
    """The updates of the last linear layer: weights, then biases, [K, C h (+ C)] float32."""
    names = (f"{ctx.model.head}.weight", f"{ctx.model.head}.bias")[: 1 + bias]
    parts = [updates.columns(name, "head").reshape(updates.num_clients, -1) for name in names]
    return np.concatenate(parts, axis=1)


def global_head(ctx: Context, *, bias: bool = True) -> np.ndarray:
    """The same parameters of the global model, [C h (+ C)] float32."""
    names = (f"{ctx.model.head}.weight", f"{ctx.model.head}.bias")[: 1 + bias]
    return np.concatenate([ctx.layout.view(ctx.global_parameters, name).reshape(-1) for name in names])


def principal_components(gram: np.ndarray) -> np.ndarray:
    """Coordinates [K, r], r <= K - 1, of K rows along their principal components, largest first.

    gram [K, K]: of the rows as they are; centring needs nothing else. All components of non-zero variance
    are kept, so distances between rows are unchanged. Signs: each component's third moment is positive, which
    does not depend on the order of rows.
    """
    count = len(gram)
    centring = np.eye(count) - 1.0 / count
    values, vectors = np.linalg.eigh(centring @ gram @ centring)
    kept = values > max(values[-1], 0.0) * count * 1e-12
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    signs = np.where((vectors**3).sum(axis=0) < 0, -1.0, 1.0)
    projections: np.ndarray = vectors * signs * np.sqrt(values)
    return projections
