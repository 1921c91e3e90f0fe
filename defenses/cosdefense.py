"""CosDefense (Yaldiz et al., arXiv 2304.00160): cosines of the last layer with the global model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.features import global_head, head_updates
from raysim.context import Context, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.updates import Updates
from raysim.options import NotNegative
from raysim.requirement import Requirement


@dataclass(frozen=True)
class CosDefense(Defense):
    """Drops clients whose last layer is far above average in cosine similarity to the global model's.

    Score: |cos| between the client's and the global last weight matrix W_G (no bias), scaled to [0, 1] over the
    round. Clients at or above mean + `deviations` standard deviations are dropped.

    The paper only says "far above average"; its code compares with the mean, its half standard deviation
    commented out, so deviations = 0 by default: about half of any round is dropped. Equal scores: everybody is
    accepted. A zero vector has cosine 0.
    """

    paper = "Yaldiz et al., arXiv 2304.00160, 2023"
    on_buffers = (
        "it measures the angle between an update and the global last layer that it began from, and is given "
        "the newest one"
    )
    needs = frozenset({Requirement.LAST_LAYER})
    vector: Literal["update", "model"] = "update"
    """What is compared with the global last layer: the `update` (published code), or the `model`
    (LayerCAM-AE)."""
    deviations: NotNegative = 0.0
    """Standard deviations above the mean similarity at which a client is dropped (the code: 0)."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Score by cosine, drop what is above the threshold."""
        rows = head_updates(updates, ctx, bias=False)
        with ctx.stage("cosine"):
            reference = global_head(ctx, bias=False).astype(np.float64)
            rows = rows.astype(np.float64) + (reference if self.vector == "model" else 0.0)
            lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(reference)
            cosines = np.abs(rows @ reference) / np.where(lengths > 0, lengths, 1.0)
            spread, threshold = np.ptp(cosines), None
            if spread > 0:
                scores = (cosines - cosines.min()) / spread
                threshold = float(scores.mean() + self.deviations * scores.std())
                flagged = scores >= threshold
            else:
                scores, flagged = np.zeros(len(cosines)), np.zeros(len(cosines), bool)
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, scores, flagged, threshold=threshold), state
