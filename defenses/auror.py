"""AUROR (Shen, Tople and Saxena, ACSAC 2016): 2-means on indicative parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Lt

from defenses.clustering import two_means
from defenses.features import global_head, head_updates
from raysim.context import Context, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.updates import Updates
from raysim.options import Positive, PositiveInt
from raysim.requirement import Requirement

_BLOCK = 8192
"""Parameters clustered in one task."""


@dataclass(frozen=True)
class AUROR(Defense):
    """Splits each indicative parameter of the last layer in two; drops clients mostly in minority clusters.

    A parameter is *indicative* once the two centres of its exact 2-means over the K updates lie at least
    `threshold` apart in one of the first `learning_rounds` rounds; the set is kept from then on (FLPoison's code
    finds it anew in each of these rounds). The right threshold depends on data, model and learning rate; the default is
    the one value FLPoison has for all data. A client is malicious when it is in the smaller cluster of more than `share`
    of the indicative parameters; its score is that share. With `joint` clustering the smaller cluster is malicious, and
    the score is the distance to the larger one's centre. The paper leaves clusters of equal size open (`tie`). No
    indicative parameter: everybody is accepted. Cost O(m K log K) for m parameters of the last layer.
    """

    paper = "Shen et al., ACSAC 2016"
    judges_buffers = True
    on_buffers = (
        "it parts the values of single parameters in two, and remembers which ones, not who; where the parts "
        "are fresh and stale, the fewer are suspected"
    )
    needs = frozenset({Requirement.LAST_LAYER})
    threshold: Positive = 0.002
    """Distance of a parameter's two centres that makes it indicative, in its units (FLPoison: 1e-4
    MNIST, 7e-4 CIFAR-10)."""
    learning_rounds: PositiveInt = 10
    """Rounds in which indicative parameters are looked for."""
    share: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of the indicative parameters above which a minority client is malicious."""
    clustering: Literal["parameter", "joint"] = "parameter"
    """2-means of each `parameter` (the paper), or one of all together, `joint` (FLPoison)."""
    tie: Literal["larger_norm", "accept"] = "larger_norm"
    """Clusters of equal size: the one whose centre has the `larger_norm` counts as the smaller, or neither does (`accept`)."""

    def init(self, ctx: Context) -> State:
        """No indicative parameter yet (mask over the last layer's weights and biases)."""
        return {"rounds": 0, "indicative": np.zeros(len(global_head(ctx)), bool)}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Learn which parameters are indicative while the first rounds last; judge by those known."""
        count, known = updates.num_clients, state["indicative"]
        flagged, scores = np.zeros(count, bool), np.zeros(count)
        if count > 1:
            head = head_updates(updates, ctx)
            starts = range(0, head.shape[1], _BLOCK)
            blocks = [(head[:, start : start + _BLOCK], known[start : start + _BLOCK]) for start in starts]
            learn = state["rounds"] < self.learning_rounds
            accept = self.tie == "accept"
            answers = ctx.map("two_means", _minority_counts, blocks, self.threshold, learn, accept)
            indicative = np.concatenate([mask for mask, _ in answers])
            if indicative.any() and self.clustering == "joint":
                flagged, scores = ctx.run(
                    "joint_two_means",
                    _joint,
                    head[:, indicative],
                    int(ctx.generator("kmeans").integers(2**31)),
                    accept,
                )
            elif indicative.any():
                scores = sum(counts for _, counts in answers) / indicative.sum()
                flagged = scores > self.share
            state = {"rounds": state["rounds"] + 1, "indicative": indicative}
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, scores, flagged), state


def _minority_counts(
    block: tuple[np.ndarray, np.ndarray], threshold: float, learn: bool, accept_ties: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(which of the block's parameters are indicative, in how many of them each client is in the minority)."""
    values, indicative = block
    above, low, high = two_means(values)
    if learn:
        indicative = indicative | (high - low >= threshold)
    twice = 2 * above.sum(axis=0)
    minority_above = np.where(twice == len(values), np.abs(high) > np.abs(low), twice < len(values))
    minority = above == minority_above
    if accept_ties:
        minority &= twice != len(values)
    return indicative, minority[:, indicative].sum(axis=1)


def _joint(points: np.ndarray, seed: int, accept_ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(flagged, distance to the majority's centre) of points [K, m], by one 2-means on whole rows."""
    from sklearn.cluster import KMeans

    if (points == points[0]).all():
        return np.zeros(len(points), bool), np.zeros(len(points))
    points = points.astype(np.float64)
    order = np.lexsort(
        points.T[:8]
    )  # the algorithm starts from rows by their place: make that a matter of content
    labels = np.empty(len(points), np.int64)
    labels[order] = KMeans(2, n_init=10, random_state=seed).fit(points[order]).labels_
    centres = np.stack([points[labels == label].mean(axis=0) for label in (0, 1)])
    sizes = np.bincount(labels, minlength=2)
    norms = np.linalg.norm(centres, axis=1)
    majority = int(norms[1] < norms[0]) if sizes[0] == sizes[1] else int(sizes[1] > sizes[0])
    flagged = labels != majority
    if accept_ties and sizes[0] == sizes[1]:
        flagged[:] = False
    return flagged, np.linalg.norm(points - centres[majority], axis=1)
