"""SignGuard: accept updates of usual length whose signs are distributed as most others' are.

Xu et al., "Byzantine-robust federated learning through collaborative malicious gradient filtering", ICDCS 2022.

As in the published code each share of signs is divided by the round's largest. That code differs: it counts the signs of
one window of consecutive parameters, which here are drawn one by one (option `parameters`), rejects norms at the very
bounds, clips to the lower middle one of an even number of norms, and its variant with a cosine uses medians in the first
three epochs (option `similarity`; here in the first round).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.clip_norm import clip_factors
from defenses.cosine import cosines_from_gram, cosines_from_products
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.distances import squared_distances
from raysim.matrix.row_products import products_with, squared_norms, squares_about
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import NotNegative, Positive, PositiveFraction
from raysim.requirement import Requirement

SHARE_OF_SIMILARITY = 5.0
"""The similarity's feature is divided by this, so that signs weigh more (published code)."""

FAR = 1.1
"""In medians: a distance from which the distance's feature is not 0 (published code)."""


REJECTED = 2.0
"""Added to the score of a rejected norm: more than features in [0, 1] can lie apart."""


@dataclass(frozen=True)
class SignGuard(Defense):
    """Mean of clipped updates that pass a filter on norms, and lie in the largest cluster of sign statistics.

    1. lower <= |u_i| / M <= upper, with M the median norm. 2. On a `share` of the parameters, drawn anew in every round,
    the shares of positive, zero and negative values are the features, each divided by the largest of the round;
    MeanShift, its bandwidth from the data (quantile 1/2), groups them, and the largest group passes. 3. The uniform mean
    of those that pass both, each clipped to M. The others are flagged; if nobody is left, the global model stays.

    The fourth feature of SignGuard-Sim and SignGuard-Dist (`similarity`) is, in the first round, of the median of the
    cosines to all, and of the sum of the K / 2 smallest distances. Scores: the distance of the features to the mean of the largest group, and 2 more for a rejected norm.
    State: {"last": the last aggregate, float32 [d], or None}.
    """

    paper = "Xu et al., ICDCS 2022"
    judges_buffers = True
    on_buffers = (
        "norms and shares of signs are an update's own; discounts (server.staleness) change norms, and signs "
        "do not change"
    )
    needs = frozenset({Requirement.GRAM})
    lower: NotNegative = 0.1
    """Least norm that passes, in median norms (published code: 0.1)."""
    upper: Positive = 3.0
    """Largest norm that passes, in median norms (published code: 3)."""
    share: PositiveFraction = 0.1
    """Share of the parameters whose signs are counted (published code: 0.1)."""
    parameters: Literal["random", "window"] = "random"
    """Which parameters: each drawn at `random`, or a `window` of consecutive ones (published code)."""
    similarity: Literal["none", "cosine", "distance"] = "none"
    """A further feature: `none`, the `cosine` to the last aggregate (SignGuard-Sim), or the `distance` to it
    (SignGuard-Dist)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lower > 1 or self.upper < 1:
            key = "lower" if self.lower > 1 else "upper"
            raise ConfigError(
                key, "must let the median norm itself pass: lower <= 1 <= upper", getattr(self, key), 1.0
            )

    def needed(self) -> frozenset[Requirement]:
        """Inner products of all updates where the first round's similarity asks for them."""
        return frozenset() if self.similarity == "none" else self.needs

    def check(self, setting: Setting) -> None:
        """A similarity is, in the first round, of all pairs."""
        if self.similarity != "none":
            setting.require_all_pairs("a similarity")

    def init(self, ctx: Context) -> State:
        """No aggregate yet."""
        return {"last": None}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Norms, signs, groups, clipped mean."""
        norms = np.sqrt(squared_norms(updates))
        median = float(np.median(norms))
        usual = (norms >= self.lower * median) & (norms <= self.upper * median)
        with ctx.stage("draw"):
            mask = self.drawn(updates.dim, ctx)
        drawn = ctx.put(mask)
        counted = updates.map_row_stage(RowStage("signs", _sign_shares, (drawn,), buffers=False))
        features = np.array(counted, np.float64).reshape(-1, 3)
        features /= np.maximum(features.max(axis=0), np.finfo(np.float64).tiny)
        if self.similarity != "none":
            features = np.column_stack([features, self.alikeness(updates, state["last"], ctx)])
        group = ctx.run("cluster", largest_group, features)
        with ctx.stage("clip"):
            accepted = usual & group
            weights = accepted / max(accepted.sum(), 1)
            scale = clip_factors(norms, median)
            apart = np.linalg.norm(features - features[group].mean(axis=0), axis=1)
            scores = np.where(usual, apart, apart + REJECTED)
        aggregate = updates.combine(weights * scale)
        last = None if self.similarity == "none" else aggregate
        return Verdict(aggregate, weights, scores, ~accepted), {"last": last}

    def drawn(self, dim: int, ctx: Context) -> np.ndarray:
        """Which parameters [d] bool are counted in this round: at least one."""
        size, draw = max(1, int(self.share * dim)), ctx.generator("parameters")
        mask = np.zeros(dim, bool)
        if self.parameters == "window":
            start = int(draw.integers(dim - size + 1))
            mask[start : start + size] = True
        else:
            mask[draw.choice(dim, size, replace=False, shuffle=False)] = True
        return mask

    def alikeness(self, updates: Updates, last: np.ndarray | None, ctx: Context) -> np.ndarray:
        """The feature [K] of a similarity."""
        if last is None and self.similarity == "cosine":
            values = np.median(cosines_from_gram(updates.gram()), axis=1)
        elif last is None:
            half = max(1, updates.num_clients // 2)
            values = np.sort(np.sqrt(squared_distances(updates)), axis=1)[:, :half].sum(axis=1)
        elif self.similarity == "cosine":
            products = products_with(updates, ctx.put(last), "similarity")
            both = np.sqrt(products[:, 1] * float(last.astype(np.float64) @ last))
            values = cosines_from_products(products[:, 0], both)
        else:
            values = np.sqrt(squares_about(updates, ctx.put(last.astype(np.float64)), "similarity"))
        middle = float(np.median(values))
        if self.similarity == "distance":
            far: np.ndarray = (values >= FAR * middle) / SHARE_OF_SIMILARITY
            return far
        if middle <= 0:
            return np.zeros_like(values)
        feature: np.ndarray = np.clip(values, 0.0, middle) / (SHARE_OF_SIMILARITY * middle)
        return feature


def _sign_shares(rows: np.ndarray, tiles: Sequence[np.ndarray], drawn: np.ndarray) -> list[tuple[float, ...]]:
    """(positive, zero, negative) shares of the drawn parameters [d], of each row."""
    counts = np.zeros((len(rows), 2))
    first = 0
    for tile in tiles:
        mask = drawn[first : first + tile.shape[1]]
        for count, row in zip(counts, rows, strict=True):
            values = tile[row][mask]
            count += (values > 0).sum(), (values < 0).sum()
        first += tile.shape[1]
    total = float(drawn.sum())
    return [(up / total, (total - up - down) / total, down / total) for up, down in counts]


def largest_group(features: np.ndarray) -> np.ndarray:
    """Mask [K] of MeanShift's largest group of features [K, n]; of equally large ones that of the densest centre.

    The seeds are the bins, one bandwidth wide, in which rows lie (scikit-learn's bin_seeding, as in the published code).
    If half of the rows are equal to each row, the bandwidth is 0: groups are then the equal rows.
    """
    from sklearn.cluster import MeanShift, estimate_bandwidth

    bandwidth = estimate_bandwidth(features, quantile=0.5)
    if bandwidth > 0:
        bins = np.unique(np.round(features / bandwidth), axis=0)
        labels = (
            MeanShift(bandwidth=bandwidth, seeds=bins * bandwidth, cluster_all=False).fit(features).labels_
        )
    else:
        labels = np.unique(features, axis=0, return_inverse=True)[1].reshape(-1)
    members: np.ndarray = labels == np.argmax(np.bincount(labels[labels >= 0]))
    return members
