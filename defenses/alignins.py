"""AlignIns: inspect where an update points, as a whole and sign by sign in its largest entries.

Xu, Zhang and Hu, "Detecting backdoor attacks in federated learning via direction alignment inspection", CVPR 2025.

Published code that differs: a deviation of exactly the radius is rejected there, of an even number of norms the lower
middle one is what the accepted are clipped to, their mean is weighted by data, and BatchNorm's statistics count as parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from defenses.clip_norm import clip_factors
from defenses.cosine import cosines_from_products
from raysim.context import Context, State
from raysim.defense import Defense, Verdict
from raysim.matrix.row_products import products_with
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import Positive, PositiveFraction


@dataclass(frozen=True)
class AlignIns(Defense):
    """Rejects updates whose direction, or whose signs in their largest entries, deviate from the median client's.

    1. TDA: omega_i = cos(u_i, w_G), with the global parameters of the round. 2. MPSA: rho_i = the share of the k = top_share
    * d largest entries |u_ij| (at least one) whose sign is the principal one, sign(sum_i sign(u_ij)); of equal entries the
    first count. 3. Each is turned into an MZ-score, |x_i - median| / standard deviation (0 where all are equal). A client
    passes with both at most at their radii. 4. The uniform mean of those that pass, each clipped to their median norm.

    The others are flagged; if nobody passes, the global model stays. Scores: the larger MZ-score, in radii.
    """

    paper = "Xu et al., CVPR 2025"
    on_buffers = (
        "it measures the angle between an update and the global model that it began from, and is given the "
        "newest one"
    )
    reads_columns = True
    direction_radius: Positive = 1.0
    """Largest MZ-score of the cosine to the global model (lambda_c; published code: 1)."""
    sign_radius: Positive = 1.0
    """Largest MZ-score of the alignment of signs (lambda_s; published code: 1)."""
    top_share: PositiveFraction = 0.3
    """Share of an update's entries, the largest, whose signs are compared (published code: 0.3)."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Two measures of alignment, one filter, clipped mean."""
        reference = ctx.global_parameters
        principal = ctx.put(updates.map_columns("sign_vote", _principal_signs).astype(np.int8))
        products = products_with(updates, ctx.put(reference), "similarity")
        size = max(1, int(self.top_share * updates.dim))
        work = RowStage("signs", _agreements, (principal, size), buffers=False)
        agreement = np.array(updates.map_row_stage(work), np.float64)
        with ctx.stage("clip"):
            norms = np.sqrt(products[:, 1])
            both = norms * np.sqrt(reference.astype(np.float64) @ reference)
            cosines = cosines_from_products(products[:, 0], both)
            scores = np.maximum(
                mz_scores(cosines) / self.direction_radius, mz_scores(agreement) / self.sign_radius
            )
            accepted = scores <= 1.0
            weights = accepted / max(accepted.sum(), 1)
            bound = float(np.median(norms[accepted])) if accepted.any() else 0.0
            scale = clip_factors(norms, bound)
        return Verdict(updates.combine(weights * scale), weights, scores, ~accepted, threshold=1.0), state


def mz_scores(values: np.ndarray) -> np.ndarray:
    """|x - median| / standard deviation [K]; zeros where that is 0."""
    spread = values.std()
    away = np.abs(values - np.median(values))
    return away / spread if spread > 0 else np.zeros_like(away)


def _principal_signs(columns: np.ndarray) -> np.ndarray:
    signs: np.ndarray = np.sign(np.sign(columns).sum(axis=0))
    return signs


def _agreements(
    rows: np.ndarray, tiles: Sequence[np.ndarray], principal: np.ndarray, size: int
) -> list[float]:
    """For each row the share of its `size` largest entries that have the principal sign [d]."""
    return [_agreement(np.concatenate([tile[row] for tile in tiles]), principal, size) for row in rows]


def _agreement(row: np.ndarray, principal: np.ndarray, size: int) -> float:
    lengths = np.abs(row)
    least = np.partition(lengths, len(row) - size)[len(row) - size]
    above, at = lengths > least, np.flatnonzero(lengths == least)
    chosen = np.concatenate([np.flatnonzero(above), at[: size - int(above.sum())]])
    return float((np.sign(row[chosen]) == principal[chosen]).mean())
