"""Static clipping, a pre-aggregation: scale every update down to at most a given norm.

Sun et al., "Can you really backdoor federated learning?", arXiv 1911.07963, 2019; ByzFL calls it `Clipping`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from raysim.context import Context, State
from raysim.defense import PreAggregation
from raysim.matrix.new_rows import rows_from
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates
from raysim.options import Positive


@dataclass(frozen=True)
class ClipNorm(PreAggregation):
    """Scales every update down to at most a given Euclidean norm, in front of another defense.

    Buffers are left as they are.
    """

    paper = "Sun et al., arXiv 1911.07963, 2019"
    judges_buffers = True
    on_buffers = "it scales every update alone, whatever model it began from"
    bound: Positive | None = 2.0
    """Largest Euclidean norm M of an update; null: the mean norm of the round."""

    keeps_rows = True

    def transform(
        self, state: State, updates: Updates, ctx: Context
    ) -> tuple[Updates, np.ndarray | None, State]:
        """u_i min(1, M / |u_i|), row by row."""
        factors = clip_factors(np.sqrt(squared_norms(updates)), self.bound)
        if (factors == 1).all():
            return updates, None, state
        clipped = rows_from(
            updates, np.arange(updates.num_clients), "clip", partial(_scaled, factors, updates.dim),
            client_ids=updates.client_ids, num_examples=updates.num_examples,
        )  # fmt: skip
        return clipped, None, state


def clip_factors(norms: np.ndarray, bound: float | None) -> np.ndarray:
    """min(1, M / norm) for every norm [K], with M = bound or the mean of the norms.

    >>> clip_factors(np.array([0.0, 1.0, 4.0]), 2.0)
    array([1. , 1. , 0.5])
    """
    limit = norms.mean() if bound is None else bound
    factors: np.ndarray = np.divide(limit, norms, out=np.ones_like(norms), where=norms > limit)
    return factors


def _scaled(factors: np.ndarray, dim: int, values: np.ndarray, first: int, number: int) -> np.ndarray:
    scaled: np.ndarray = values if first >= dim else values * factors[number]
    return scaled
