"""DeepSight: look into the models, cluster them by what they were trained on, and drop suspicious clusters.

Rieger et al., "DeepSight: mitigating backdoor attacks in federated learning through deep model inspection",
NDSS 2022.

Published code that differs, besides the options `outputs` and `outside`: FedGrad's reads one weight per class, uses
2,000 noise inputs and scales the model instead of the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from defenses.client_models import bound_model, map_models
from defenses.clip_norm import clip_factors
from defenses.cosine import cosine_similarities
from raysim import rng
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.matrix.layout import Layout
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory
from raysim.options import AtLeastTwo, PositiveInt
from raysim.requirement import Requirement

if TYPE_CHECKING:
    import torch
    from torch import nn

Outputs = Literal["softmax", "raw"]

NOISE_BATCH = 500
"""Noise images in one forward pass."""

OFFSET = 1e-6
"""Added to softmax outputs before their ratio is taken, and to raw outputs of the global model."""

ROUNDING = 1e-12
"""A cosine distance below this is what rounding leaves of equal directions."""

MOST_SUSPICIOUS = 1 / 3
"""A cluster with this share of suspicious clients, or more, is dropped."""


@dataclass(frozen=True)
class DeepSight(Defense):
    """Clusters clients by last-layer updates and reactions to noise; drops clusters with many one-sided updates.

    1. Update energies e_k = |db_k| + sum_h |dW_kh| per class; NEUP_k = e_k^2 / sum e^2. A client with few classes of
    NEUP above max(0.01, 1 / C) of its largest (at most half the median client's number) is suspicious.
    2. Division differences: the mean over `samples` uniform noise images of the ratio of the client's to the
    global model's softmax outputs, for `seeds` sets of noise, the same in every round. 3. HDBSCAN separately
    on the cosines of db, the NEUPs and each set's division differences; the share of clusterings that part two clients
    (the sets of noise count as one) is their distance for the final HDBSCAN. 4. Clusters less than a third
    suspicious are accepted; clients outside all clusters each by their own label. 5. Accepted updates clipped to
    the median norm over all K, and averaged uniformly. Scores: the share of suspicious clients in the own cluster.

    A client outside all clusters of one clustering is parted from everybody in it. Noise has the size of images that the
    model's recipe states; without one, the server's images tell. To softmax outputs 1e-6 is added. Outputs before the
    softmax change sign; 1e-6 is added to the global model's, as in FLPoison (FedGrad's adds nothing). FLPoison gives
    clients outside all clusters score 1 and drops them; nobody in a cluster: the global model stays.
    """

    paper = "Rieger et al., NDSS 2022"
    on_buffers = (
        "it looks at answers of the clients' models, and the newest global model plus an update is none that "
        "a client had"
    )
    needs = frozenset({Requirement.LAST_LAYER, Requirement.INFERENCE})
    samples: PositiveInt = 20_000
    """Noise images per set (Rieger et al.: 20,000)."""
    seeds: PositiveInt = 3
    """Sets of noise images (Rieger et al.: 3)."""
    min_cluster_size: AtLeastTwo = 3
    """HDBSCAN's smallest cluster, in clients; not stated in the paper."""
    min_samples: PositiveInt = 3
    """HDBSCAN's min_samples, the client itself included; not stated in the paper."""
    outputs: Outputs = "softmax"
    """Outputs whose ratios are taken: after the `softmax` (the paper), or `raw` (codes of FedGrad and
    FLPoison)."""
    outside: Literal["single", "reject"] = "single"
    """Clients outside all clusters: each judged alone, `single` (the paper), or dropped, `reject`
    (FLPoison)."""

    def check(self, setting: Setting) -> None:
        """Inputs must be such that noise can stand for them, and clusters are of all pairs."""
        setting.require_all_pairs(type(self).__name__)
        setting.require_numbers(type(self).__name__)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Inspect, cluster, accept, clip, average."""
        weight = updates.columns(f"{ctx.model.head}.weight", "head")
        bias = updates.columns(f"{ctx.model.head}.bias", "head").astype(np.float64)
        differences = self.division_differences(updates, ctx)
        norms = np.sqrt(squared_norms(updates))
        with ctx.stage("energies"):
            energies = normalised_energies(weight, bias)
            suspicious = one_sided(energies)
            apart = 1.0 - cosine_similarities(bias)
            apart[apart < ROUNDING] = 0.0
        views = [apart, energies, *differences.transpose(1, 0, 2)]
        labels = ctx.run("cluster", ensemble_clusters, views, self.min_cluster_size, self.min_samples)
        with ctx.stage("clip"):
            if self.outside == "reject":
                suspicious |= labels < 0
            scores = suspicious_share(labels, suspicious)
            accepted = scores < MOST_SUSPICIOUS
            bound = float(np.median(norms))
            scale = clip_factors(norms, bound)
            weights = accepted / max(accepted.sum(), 1)
        return Verdict(updates.combine(weights * scale), weights, scores, ~accepted), state

    def division_differences(self, updates: Updates, ctx: Context) -> np.ndarray:
        """[K, seeds, C] float64: mean ratio of a client's outputs on noise to the global model's."""
        noise = NoiseImages(ctx.seed, self.seeds, self.samples, image_shape(ctx))
        settings = (ctx.model, ctx.layout, ctx.published, noise, self.outputs)
        reference = ctx.run("inference", noise_outputs, *settings, needs=ACCELERATED)
        shared = (noise, ctx.put(reference), self.outputs)
        return np.stack(
            map_models(updates, "inference", client_differences, ctx.model, ctx.published, *shared)
        )


@dataclass(frozen=True)
class NoiseImages:
    """`seeds` sets of `samples` uniform images, the same for every client and round."""

    seed: int
    seeds: int
    samples: int
    shape: tuple[int, ...]

    def batches(self, number: int) -> Iterator[torch.Tensor]:
        """The images of set `number`, in order: tensors [<= NOISE_BATCH, *shape]."""
        import torch

        for start in range(0, self.samples, NOISE_BATCH):
            draw = rng.generator(self.seed, "defense", "noise", number, start)
            size = min(NOISE_BATCH, self.samples - start)
            yield torch.from_numpy(draw.random((size, *self.shape), np.float32))


def image_shape(ctx: Context) -> tuple[int, ...]:
    """(C, H, W) of an image: as the model's recipe says, else that of the server's images."""
    shape: tuple[int, ...] | None = getattr(ctx.model, "input_shape", None)
    return tuple(ctx.require_server_data().images.shape[1:]) if shape is None else tuple(shape)


def noise_outputs(
    factory: ModelFactory,
    layout: Layout,
    global_vector: np.ndarray,
    noise: NoiseImages,
    outputs: Outputs = "softmax",
) -> np.ndarray:
    """What ratios are taken to: outputs + 1e-6, [seeds, samples, C] float32, of the global model on noise."""
    model = bound_model(factory, layout, global_vector)
    sets = [
        np.concatenate([_outputs(model, batch, outputs) for batch in noise.batches(number)])
        for number in range(noise.seeds)
    ]
    return np.stack(sets) + np.float32(OFFSET)


def client_differences(
    model: nn.Module, noise: NoiseImages, reference: np.ndarray, outputs: Outputs = "softmax"
) -> np.ndarray:
    """[seeds, C] of one client's model; reference: the global model's, from `noise_outputs`."""
    offset = np.float32(OFFSET if outputs == "softmax" else 0.0)
    sums = np.zeros((noise.seeds, reference.shape[2]))
    for number in range(noise.seeds):
        start = 0
        for batch in noise.batches(number):
            against = reference[number, start : start + len(batch)]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                ratios = (_outputs(model, batch, outputs) + offset) / against
            sums[number] += ratios.sum(axis=0, dtype=np.float64)
            start += len(batch)
    return sums / noise.samples


def normalised_energies(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """NEUPs [K, C] of last-layer updates [K, C, h] and [K, C]; 0 for a zero update."""
    squares = (np.abs(bias) + np.abs(weight).sum(axis=2, dtype=np.float64)) ** 2
    totals = squares.sum(axis=1, keepdims=True)
    shares: np.ndarray = np.divide(squares, totals, out=np.zeros_like(squares), where=totals > 0)
    return shares


def one_sided(energies: np.ndarray) -> np.ndarray:
    """Whose updates concentrate on few classes [K] bool: threshold exceedings at most half the median."""
    share = max(0.01, 1.0 / energies.shape[1])
    exceedings = (energies > share * energies.max(axis=1, keepdims=True)).sum(axis=1)
    few: np.ndarray = exceedings <= np.median(exceedings) / 2
    return few


def ensemble_clusters(views: list[np.ndarray], min_cluster_size: int, min_samples: int) -> np.ndarray:
    """Labels [K], -1 outside all clusters. views: cosine distances [K, K], NEUPs [K, C], then division differences."""
    cosine, energies, *differences = views
    parted = [
        _parted(_clusters(cosine, min_cluster_size, min_samples, metric="precomputed")),
        _parted(_clusters(energies, min_cluster_size, min_samples)),
        np.mean([_parted(_clusters(view, min_cluster_size, min_samples)) for view in differences], axis=0),
    ]
    return _clusters(
        np.mean(parted, axis=0), min_cluster_size, min_samples, metric="precomputed", single=True
    )


def suspicious_share(labels: np.ndarray, suspicious: np.ndarray) -> np.ndarray:
    """[K]: the share of suspicious clients in the own cluster; outside all clusters, the own label."""
    shares = suspicious.astype(np.float64)
    for label in range(labels.max() + 1):
        shares[labels == label] = suspicious[labels == label].mean()
    return shares


def _clusters(
    points: np.ndarray,
    min_cluster_size: int,
    min_samples: int,
    metric: str = "euclidean",
    single: bool = False,
) -> np.ndarray:
    """HDBSCAN labels [K]; -1 for rows that are not finite, and for all where K is below the smallest cluster."""
    from sklearn.cluster import HDBSCAN

    labels = np.full(len(points), -1)
    usable = np.isfinite(points).all(axis=1)
    if usable.sum() >= max(min_cluster_size, min_samples):
        chosen = points[usable]
        if metric == "precomputed":
            chosen = chosen[:, usable]
        clustering = HDBSCAN(
            min_cluster_size=min_cluster_size,
            min_samples=min_samples,
            metric=metric,
            allow_single_cluster=single,
            copy=True,
        )
        labels[usable] = clustering.fit(chosen).labels_
    return labels


def _parted(labels: np.ndarray) -> np.ndarray:
    """[K, K]: 0 where two clients share a cluster, else 1; 0 on the diagonal."""
    parted = (labels[:, None] != labels) | (labels < 0)[:, None]
    np.fill_diagonal(parted, False)
    distances: np.ndarray = parted.astype(np.float64)
    return distances


def _outputs(model: nn.Module, batch: torch.Tensor, outputs: Outputs) -> np.ndarray:
    import torch

    with torch.no_grad():
        logits = model(batch.to(devices.here()))
        found: np.ndarray = (logits.softmax(dim=1) if outputs == "softmax" else logits).cpu().numpy()
    return found
