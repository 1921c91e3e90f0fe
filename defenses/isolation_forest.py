"""Isolation forest (Liu, Ting and Zhou, ICDM 2008) on the round's updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Gt, Lt

from defenses.features import head_updates, principal_components
from defenses.flags import check_some_remain, highest
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.updates import Updates
from raysim.options import Count, PositiveInt
from raysim.requirement import Requirement

_MAX_SAMPLES = 256


@dataclass(frozen=True)
class IsolationForestFilter(Defense):
    """Drops clients that random trees isolate in few splits.

    A fresh forest each round, every tree on min(256, K) clients (scikit-learn's). Score 2^(-E[h] / H) in (0, 1], E[h] the
    mean depth of a client and H the mean depth of an unsuccessful search. Principal components are K - 1 numbers each,
    from one Gram matrix. The reinforcement-learned threshold of the work that CAM papers cite is left out. K < 3: accept
    all.
    """

    paper = "Liu et al., ICDM 2008"
    judges_buffers = True
    on_buffers = (
        "it looks for updates that lie apart from the rest; stale honest ones lie farther out, and are "
        "suspected for it"
    )
    needs = frozenset({Requirement.GRAM, Requirement.LAST_LAYER})
    features: Literal["head", "components"] = "head"
    """What trees split: updates of the last layer, `head`, or principal `components` of whole updates."""
    num_trees: PositiveInt = 100
    """Trees of each round's forest."""
    threshold: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Score above which a client is dropped, where num_byzantine is null."""
    num_byzantine: Count | None = None
    """Highest scores to drop; null: all above threshold."""

    @property
    def reads_columns(self) -> bool:  # type: ignore[override]
        """Where whole updates are compared."""
        return self.features == "components"

    def needed(self) -> frozenset[Requirement]:
        """What the features are made of."""
        return frozenset({Requirement.LAST_LAYER if self.features == "head" else Requirement.GRAM})

    def check(self, setting: Setting) -> None:
        """Somebody must remain; components are those of all pairs."""
        if self.features == "components":
            setting.require_all_pairs("components")
        check_some_remain(self.num_byzantine, setting)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Grow a forest on this round's clients and score them by it."""
        count = updates.num_clients
        flagged, scores = np.zeros(count, bool), np.zeros(count)
        if count >= 3:
            if self.features == "head":
                points = head_updates(updates, ctx)
            else:
                points = principal_components(updates.gram())
            seed = int(ctx.generator("forest").integers(2**31))
            scores = ctx.run("forest", isolation_scores, points, self.num_trees, seed)
            if self.num_byzantine is None:
                flagged = scores > self.threshold
            else:
                flagged = highest(min(self.num_byzantine, count - 1), scores)
        aggregate, weights = accepted_mean(updates, flagged)
        threshold = self.threshold if self.num_byzantine is None else None
        return Verdict(aggregate, weights, scores, flagged, threshold=threshold), state


def isolation_scores(points: np.ndarray, num_trees: int, seed: int) -> np.ndarray:
    """Anomaly scores [K] of points [K, m]; all of them 0.5 if the points are the same."""
    from sklearn.ensemble import IsolationForest

    if not points.shape[1] or (points == points[0]).all():
        return np.full(len(points), 0.5)
    forest = IsolationForest(
        n_estimators=num_trees, max_samples=min(_MAX_SAMPLES, len(points)), random_state=seed
    )
    scores: np.ndarray = -forest.fit(points).score_samples(points)
    return scores
