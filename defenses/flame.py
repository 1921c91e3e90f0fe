"""FLAME: keep the majority cluster of models, clip, average, and add noise.

Nguyen et al., "FLAME: taming backdoors in federated learning", USENIX Security 2022.

Published code that differs, besides the option `clustering`: FedGrad's version allows no single cluster, so that it
finds none of more than half, and picks among labels by the wrong element; FLPoison's noise follows each tensor's own
deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.clip_norm import clip_factors
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.matrix.column_tasks import Columns
from raysim.matrix.column_walk import steps
from raysim.matrix.pair_distances import pair_distances
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_products import products_with
from raysim.matrix.updates import Updates
from raysim.options import NotNegative
from raysim.requirement import Requirement

FEWEST = 4
"""Below this many clients there is no majority to cluster; all are accepted."""

ROUNDING = 1e-12
"""A squared distance below this share of |u_i|^2 + |u_j|^2 is what rounding leaves of two equal updates."""

NOISE_VALUES = 2**20
"""Values of noise drawn at a time; the same stream as in one go."""


@dataclass(frozen=True)
class Flame(Defense):
    """Keeps the majority cluster of models by cosine distance, clips to the median norm, averages, adds noise.

    1. HDBSCAN on the cosine distances of the *models* w_G + u_i, with clusters of at least floor(K / 2) + 1; K < 4:
    all are accepted. 2. Accepted updates are clipped to S, the median norm over all K.
    3. Their uniform mean. 4. Gaussian noise of deviation noise_factor * S on every parameter; the paper's theory has
    noise_factor = sqrt(2 ln(1.25 / delta)) / epsilon. Scores: mean cosine distance to the accepted models.

    FedGrad's code clusters `rows`: each client is its row of the distance matrix, scaled to length 1, and Euclidean
    distances between rows count; from there on as in the paper, which leaves open what to do without a cluster that
    large. There always is one (see majority_cluster).
    Up to K = 1,448 HDBSCAN is one task; beyond, what it finds is made of trees of tiles, but by `rows` one task, up to
    K = 16,384.
    """

    paper = "Nguyen et al., USENIX Security 2022"
    on_buffers = (
        "it compares the clients' models, and the newest global model plus an update is none that a client "
        "had"
    )
    reads_columns = True
    needs = frozenset({Requirement.GRAM})
    noise_factor: NotNegative = 0.001
    """Standard deviation of the noise in median norms S (the paper's empirical value: 0.001)."""
    clustering: Literal["cosine", "rows"] = "cosine"
    """HDBSCAN by `cosine` distance (the paper), or on the `rows` of the distance matrix (FedGrad's code)."""

    def check(self, setting: Setting) -> None:
        """Clustering by rows holds all pairs."""
        if self.clustering == "rows":
            setting.require_all_pairs("clustering by rows")

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Cluster, clip, average, add noise."""
        count = updates.num_clients
        distances, squares = model_distances(updates, ctx)
        accepted = np.ones(count, bool)
        if count >= FEWEST:
            if self.clustering == "rows":
                accepted = distances.run("cluster", majority_by_rows)
            elif distances.is_whole:
                accepted = distances.run("cluster", majority_cluster)
            else:
                accepted = majority_of_tiles(distances)
        sums = distances.map_rows("scores", sums_with, accepted)
        with ctx.stage("clip"):
            norms = np.sqrt(squares)
            bound = float(np.median(norms))
            weights = accepted / accepted.sum()
            scale = clip_factors(norms, bound)
            scores = sums / np.maximum(accepted.sum() - accepted, 1)
        aggregate = updates.combine(weights * scale)
        if self.noise_factor * bound > 0:
            with ctx.stage("noise"):
                deviation, draw = np.float32(self.noise_factor * bound), ctx.generator("noise")
                for start, stop in steps(0, updates.dim, NOISE_VALUES):
                    aggregate[start:stop] += deviation * draw.standard_normal(stop - start, np.float32)
        artifacts = {"cosine_distance": distances.to_array()} if distances.is_whole else {}
        return Verdict(aggregate, weights, scores, ~accepted, artifacts), state


def model_distances(updates: Updates, ctx: Context) -> tuple[Pairs, np.ndarray]:
    """Cosine distances [K, K] of the models w_G + u_i, and the squared norms [K] of the updates."""
    if is_whole(updates.num_clients):
        # Cut to each shard: by reference, every task would hold the whole model.
        products = updates.reduce_columns(
            "gram", products_with_global, ctx.global_vector, dtype=np.float64, needs=ACCELERATED
        )
        distances = model_cosine_distances(products)
        return Pairs.whole(distances, ctx.backend), np.diagonal(products)[:-1]
    along, squares = products_with(updates, ctx.published, "gram").T
    reference = ctx.global_parameters.astype(np.float64)
    lengths = np.sqrt(np.maximum(squares + 2.0 * along + reference @ reference, 0.0))
    apart = pair_distances(updates)
    return apart.map_tiles("cosines", _cosine_tile, squares, squares + 2.0 * along, lengths), squares


def sums_with(rows: np.ndarray, first: int, accepted: np.ndarray) -> np.ndarray:
    """Sums [t] of the distances [t, K] to the accepted models (mask [K])."""
    sums: np.ndarray = rows[:, accepted].sum(axis=1)
    return sums


def majority_of_tiles(distances: Pairs) -> np.ndarray:
    """What `majority_cluster` finds, without the matrix.

    Its cluster is what single linkage has joined when more than half of the rows first are joined. The edges by which
    single linkage joins rows are among those by which it joins the rows of each tile, K / 2,000 times as few as pairs.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = distances.count
    items = [(*place, tile) for place, tile in zip(distances.places, distances.tiles, strict=True)]
    found = distances.backend.map("cluster", tree_edges, items)
    rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))

    def joined(limit: float) -> np.ndarray:
        use = values <= limit
        edges = coo_array((np.ones(use.sum(), bool), (rows[use], columns[use])), shape=(count, count))
        labels = connected_components(edges, directed=False)[1]
        majority: np.ndarray = labels == np.bincount(labels).argmax()
        return majority

    limits = np.unique(values)
    low, high = 0, len(limits) - 1
    while low < high:
        middle = (low + high) // 2
        if 2 * joined(limits[middle]).sum() > count:
            high = middle
        else:
            low = middle + 1
    return joined(limits[low])


def tree_edges(
    first_row: int, first_column: int, tile: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns, values) of the edges of a minimum spanning tree of a tile's [a, b] rows and columns."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    same = first_row == first_column
    rows, columns = np.tril_indices(len(tile), -1) if same else np.indices(tile.shape).reshape(2, -1)
    values = tile[rows, columns]
    # By rank: a tree of scipy's has no edges of weight 0.
    levels, ranks = np.unique(values, return_inverse=True)
    ends = columns if same else len(tile) + columns
    size = len(tile) if same else sum(tile.shape)
    tree = minimum_spanning_tree(coo_array((ranks + 1.0, (rows, ends)), shape=(size, size)).tocsr()).tocoo()
    # Of a tile's two sides, a node below a is a row.
    one, other = np.minimum(tree.row, tree.col), np.maximum(tree.row, tree.col)
    other = other if same else other - len(tile)
    return first_row + one, first_column + other, levels[tree.data.astype(np.int64) - 1]


def majority_by_rows(distances: np.ndarray) -> np.ndarray:
    """The majority cluster by Euclidean distances between the rows of distances [K, K], one task at any K."""
    return majority_cluster(row_distances(distances))


def majority_cluster(distances: np.ndarray) -> np.ndarray:
    """Mask [K] of the one cluster of more than half the rows of distances [K, K].

    scikit-learn's HDBSCAN. A cluster of more than half is the only one there can be, so the tree's root must be
    allowed as a cluster; its members are then the rows that stay together the longest, and the rest is noise. There
    always are some: those that are left when losing one more row, or group, would leave too few.
    min_samples = 1 makes the core distance 0 (scikit-learn counts the row itself), which leaves the distances as
    they are, as the original package's min_samples = 1 does, where a core distance is the nearest other's.
    """
    from sklearn.cluster import HDBSCAN

    clustering = HDBSCAN(
        min_cluster_size=len(distances) // 2 + 1,
        min_samples=1,
        metric="precomputed",
        allow_single_cluster=True,
        copy=True,
    )
    members: np.ndarray = clustering.fit(distances).labels_ >= 0
    return members


def row_distances(distances: np.ndarray) -> np.ndarray:
    """Euclidean distances [K, K] between the rows of distances [K, K], scaled to length 1 where they are not zero."""
    lengths = np.linalg.norm(distances, axis=1, keepdims=True)
    rows = np.divide(distances, lengths, out=np.zeros_like(distances), where=lengths > 0)
    return np.stack([np.linalg.norm(rows - row, axis=1) for row in rows])


def model_cosine_distances(products: np.ndarray) -> np.ndarray:
    """1 - cos(w_i, w_j) [K, K] of the models w_i = w_G + u_i, from the inner products of u_1 .. u_K and w_G.

    Models differ far less than they weigh, so 1 - cos would lose its digits. It equals
    (|w_i - w_j|^2 - (|w_i| - |w_j|)^2) / (2 |w_i| |w_j|), and both differences come from the updates alone.
    """
    gram, along = products[:-1, :-1], products[:-1, -1]
    squares = np.diagonal(gram)
    lengths = np.sqrt(np.maximum(squares + 2.0 * along + products[-1, -1], 0.0))
    apart = squares[:, None] + squares - (gram + gram.T)
    of_each = (squares, squares + 2.0 * along, lengths)
    distances = _cosine_tile(apart, *of_each, *of_each)
    np.fill_diagonal(distances, 0.0)
    return distances


def _cosine_tile(
    apart: np.ndarray,
    squares: np.ndarray,
    twice: np.ndarray,
    lengths: np.ndarray,
    other_squares: np.ndarray,
    other_twice: np.ndarray,
    other_lengths: np.ndarray,
) -> np.ndarray:
    """1 - cos [a, b] from squared distances of the updates [a, b], and of both: |u|^2, |w|^2 - |w_G|^2 and |w|."""
    apart = np.where(apart < ROUNDING * (squares[:, None] + other_squares), 0.0, apart)
    total = lengths[:, None] + other_lengths
    longer = np.divide(twice[:, None] - other_twice, total, out=np.zeros_like(total), where=total > 0)
    product = 2.0 * lengths[:, None] * other_lengths
    distances = np.divide(apart - longer**2, product, out=np.ones_like(product), where=product > 0)
    clipped: np.ndarray = np.clip(distances, 0.0, 2.0)
    return clipped


def products_with_global(columns: Columns, global_vector: Columns) -> Columns:
    """Inner products [K + 1, K + 1] of the rows [K, c] and, last, the global vector [c], all float64."""
    if not isinstance(columns, np.ndarray):
        import torch

        rows = torch.cat([columns, global_vector[None]])
        return rows @ rows.T
    count = len(columns)
    reference = global_vector.astype(np.float64)
    total = np.empty((count + 1, count + 1))
    total[:count, :count] = columns @ columns.T
    total[:count, count] = total[count, :count] = columns @ reference
    total[count, count] = reference @ reference
    return total
