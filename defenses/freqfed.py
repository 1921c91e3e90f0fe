"""FreqFed: compare the low frequencies of the updates, and keep the largest group.

Fereidooni et al., "FreqFed: a frequency analysis-based approach for mitigating poisoning attacks in federated learning",
NDSS 2024. An account of the paper and a port agree that matrices are transformed, in two dimensions, and the coefficients
(k, l) kept with k + l at most half the matrix's side; they differ in whether a matrix is a layer or the whole model. Here, as
in another port, an update is one vector. Ports leave HDBSCAN at its defaults or set it as FLAME does, by the same group: a cluster
of more than half of the clients is asked for, and here always found (option `min_cluster_size`). The port with one vector
looks at the last layer alone, and both give HDBSCAN the rows of the distance matrix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.cosine import cosines_from_gram
from defenses.flame import FEWEST, majority_cluster
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.new_rows import rows_of_another_width
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, PositiveFraction
from raysim.requirement import Requirement

ROUNDING = 1e-12
"""A cosine distance below this is what rounding leaves of equal directions."""


@dataclass(frozen=True)
class FreqFed(Defense):
    """Data-weighted mean of the largest cluster, by cosine distance of the updates' low frequencies.

    1. Each update [d], as one vector, is transformed by an orthonormal DCT-II, and its first kept_share * d coefficients
    (at least one) are kept. 2. HDBSCAN on their cosine distances. 3. The mean over the largest cluster; the others are
    flagged. K < 4: all are accepted. Scores: mean cosine distance to the accepted.

    By default a single cluster is one (see flame.majority_cluster). With a number as smallest size, of equally large clusters the first is kept, and without any, everybody.

    The coefficients lie where the updates do; inner products [K, K] leave the tasks.
    """

    paper = "Fereidooni et al., NDSS 2024"
    judges_buffers = True
    on_buffers = (
        "it clusters the low frequencies of updates by their angles, which discounts (server.staleness) do "
        "not change"
    )
    needs = frozenset({Requirement.GRAM})
    kept_share: PositiveFraction = 0.5
    """Share of the coefficients that are low frequencies and compared (the port with one vector: 0.5)."""
    min_cluster_size: AtLeastTwo | None = None
    """HDBSCAN's smallest cluster, in clients; null: floor(K / 2) + 1."""

    def check(self, setting: Setting) -> None:
        """The clusters are of all pairs."""
        setting.require_all_pairs(type(self).__name__)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Transform, compare, cluster, average."""
        width = max(1, int(self.kept_share * updates.dim))
        gram = rows_of_another_width(updates, "dct", low_frequencies, width, width).gram()
        distances = np.clip(1.0 - cosines_from_gram(gram), 0.0, 2.0)
        distances[distances < ROUNDING] = 0.0
        np.fill_diagonal(distances, 0.0)
        accepted = np.ones(updates.num_clients, bool)
        if updates.num_clients >= FEWEST:
            if self.min_cluster_size is None:
                accepted = ctx.run("cluster", majority_cluster, distances)
            elif self.min_cluster_size <= updates.num_clients:
                accepted = ctx.run("cluster", largest_cluster, distances, self.min_cluster_size)
        scores = distances[:, accepted].sum(axis=1) / np.maximum(accepted.sum() - accepted, 1)
        aggregate, weights = accepted_mean(updates, ~accepted)
        return Verdict(aggregate, weights, scores, ~accepted, {"cosine_distance": distances}), state


def low_frequencies(row: np.ndarray, count: int) -> np.ndarray:
    """The first coefficients [count] of the orthonormal DCT-II of a row [d], in its precision."""
    from scipy.fft import dct

    coefficients: np.ndarray = dct(row, norm="ortho")[:count]
    return coefficients


def largest_cluster(distances: np.ndarray, min_cluster_size: int) -> np.ndarray:
    """Mask [K] of the largest of HDBSCAN's clusters by distances [K, K], the first of equal ones; all without any."""
    from sklearn.cluster import HDBSCAN

    labels = (
        HDBSCAN(min_cluster_size=min_cluster_size, min_samples=1, metric="precomputed", copy=True)
        .fit(distances)
        .labels_
    )
    sizes = np.bincount(labels[labels >= 0])
    members: np.ndarray = labels == np.argmax(sizes) if len(sizes) else np.ones(len(labels), bool)
    return members
