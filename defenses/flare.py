"""FLARE: trust scores from how alike the clients' models see a few clean images.

Wang et al., "FLARE: defending federated learning against model poisoning attacks via latent space
representations", AsiaCCS 2022. A model's penultimate-layer representation (PLR) is what enters its last layer.

The paper also starts training from a global model fitted to the server's samples (section 5.2): `pretrain_epochs`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from defenses.client_models import head_inputs, models_stage
from defenses.fltrust import train_on_server
from defenses.mmd import centred, median_squared_distance, mmd_pairs
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, Count, Positive, PositiveInt
from raysim.requirement import Requirement

if TYPE_CHECKING:
    from torch import nn


LARGEST = 1e36
"""A squared norm above this has no float32 distances: such a representation counts as not finite."""
KEPT = 1 << 20
"""Numbers in a round's representations up to which they are kept as an artifact."""


@dataclass(frozen=True)
class Flare(Defense):
    """Weights updates by how often a model is among another's nearest, in MMD of penultimate representations.

    Each client's model is run on `samples` images of one class of the server's data, in eval mode. Every client
    votes for its `neighbours` nearest others in MMD; ct_i counts the votes for i; aggregate = sum S_i u_i with S =
    softmax(ct / temperature). Detected (flagged) when S_i < 1 / K; it keeps its small weight. Scores: the share of
    the others (with include_self, of all) that do not vote for i.

    The paper does not state the kernel's bandwidth; by default sigma^2 = median squared distance of all representations.
    A client that ranks itself, as algorithm 1 does, is its own nearest, and one of its votes goes to itself.
    Server data of one class (server_data.classes) pretrain a model that knows this class alone: the paper does not say what
    its auxiliary set holds here.
    With trust=average, S = softmax(-b / (temperature median b)) for b = a - min a, a the average discrepancies, which are the
    scores: the paper gives no formula.
    Equal discrepancies: the lowest index is nearest. K < 3, or representations that do not differ at all: uniform
    weights. A representation that is not finite is infinitely far from all: it gets no vote and has none.
    """

    paper = "Wang et al., AsiaCCS 2022"
    on_buffers = (
        "it compares representations of the clients' models, and the newest global model plus an update is "
        "none that a client had"
    )
    needs = frozenset(
        {
            Requirement.SERVER_DATA,
            Requirement.SERVER_TRAINING,
            Requirement.LAST_LAYER,
            Requirement.REPRESENTATIONS,
            Requirement.INFERENCE,
        }
    )
    temperature: Positive = 1.0
    """Divisor of the counts of votes in the softmax."""
    neighbours: PositiveInt | None = None
    """Nearest others that each client votes for; null: round(K / 2), Python's round."""
    bandwidth: Positive | None = None
    """Sigma of the Gaussian kernel, in units of the representations; null: the median heuristic."""
    mmd: Literal["paper", "unbiased"] = "paper"
    """Estimator of MMD: the `paper`'s or the `unbiased` one (defenses/mmd.py)."""
    samples: AtLeastTwo = 10
    """Server images shown to every model, at most."""
    label: Count | None = None
    """Class of these images; null: the one that the server has most of, the lowest if several."""
    include_self: bool = False
    """Whether a client ranks among its own neighbours (algorithm 1 of the paper) or not (its text)."""

    trust: Literal["votes", "average"] = "votes"
    """What a client's weight follows: the `votes` for it, or its `average` discrepancy from the others, which the paper names
    and rejects, since colluders whose models are alike bring their own average down."""

    pretrain_epochs: Count = 0
    """Epochs of the clients' training, on all that the server holds, that the global model begins with (section 5.2)."""

    def needed(self) -> frozenset[Requirement]:
        """Training only to pretrain."""
        return self.needs if self.pretrain_epochs else self.needs - {Requirement.SERVER_TRAINING}

    def initial_model(self, ctx: Context) -> np.ndarray | None:
        """The model trained on the server's data, where pretrain_epochs is above 0."""
        if not self.pretrain_epochs:
            return None
        update: np.ndarray = ctx.run(
            "pretrain",
            train_on_server,
            ctx.model,
            ctx.layout,
            replace(ctx.recipe, epochs=self.pretrain_epochs),
            ctx.published,
            ctx.require_server_data(),
            ctx.seed,
            ctx.round,
            needs=ACCELERATED,
        )
        started: np.ndarray = ctx.global_vector + update
        return started

    def check(self, setting: Setting) -> None:
        """The server needs samples; a client has K - 1 others at most; the label is a class it has."""
        fewest = self.fewest_samples
        if setting.server_samples < fewest:
            rule = f"must be at least {fewest} for this method"
            raise ConfigError("server_data.samples", rule, setting.server_samples, fewest)
        if self.neighbours is not None and self.neighbours >= setting.cohort:
            rule = f"must be below the cohort of {setting.cohort}"
            raise ConfigError("neighbours", rule, self.neighbours, setting.cohort - 1)
        if self.label is not None and self.label >= setting.num_classes:
            rule = f"must be a class from 0 to {setting.num_classes - 1}"
            raise ConfigError("label", rule, self.label, setting.num_classes - 1)
        label, classes = self.label, setting.server_classes
        if label is not None and classes is not None and classes.get(label, 0) < 2:
            enough = [known for known, held in classes.items() if held >= 2]
            nearest = min(enough, key=lambda known: abs(known - label), default=None)
            rule = "must be a class of which the server holds at least 2 samples"
            raise ConfigError("label", rule, label, nearest)

    @property
    def fewest_samples(self) -> int:
        """What the server must hold for this method to start: one class may still have fewer than `samples`."""
        return self.samples

    def row_stage(self, ctx: Context) -> RowStage[np.ndarray]:
        """Every client's representations [m, o], stage "plr"."""
        shared, key = (ctx.model.head, ctx.put(self.images(ctx))), (self.label, self.samples)
        return models_stage("plr", representation, ctx.model, ctx.layout, ctx.published, *shared, key=key)

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Represent, compare, vote, weigh."""
        representations = np.stack(updates.map_row_stage(self.row_stage(ctx)))
        count = updates.num_clients
        if count < 3 or (representations == representations[0]).all():
            weights = np.full(count, 1.0 / count)
            verdict = Verdict(updates.combine(weights), weights, np.zeros(count), np.zeros(count, bool))
            return verdict, state
        usable = np.einsum("kmo,kmo->k", representations, representations, dtype=np.float64) < LARGEST
        counts = np.zeros(count, np.int64)
        artifacts: dict[str, np.ndarray] = {}
        discrepancies = self.discrepancies(representations[usable], ctx) if usable.any() else None
        averages = np.full(count, np.inf)
        if discrepancies is not None and self.trust == "average":
            averages[usable] = discrepancies.map_rows("trust", averages_of_others)
        elif discrepancies is not None:
            neighbours = self.number_of_neighbours(count)
            counts[usable] = discrepancies.sum_over_rows("trust", votes, neighbours, self.include_self)
        if representations.size <= KEPT:
            artifacts["representations"] = representations
        if is_whole(count):
            artifacts["mmd"] = np.full((count, count), np.inf)
            if discrepancies is not None:
                artifacts["mmd"][np.ix_(usable, usable)] = discrepancies.to_array()
        with ctx.stage("weights"):
            by_average = self.trust == "average" and bool(usable.any())
            weights = softmax(self.closeness(averages) if by_average else self.evidence(counts))
            flagged = weights < 1.0 / count
        scores = averages if by_average else 1.0 - counts / (count if self.include_self else count - 1)
        return Verdict(updates.combine(weights), weights, scores, flagged, artifacts), state

    def images(self, ctx: Context) -> np.ndarray:
        """The server's images of one class that every model is run on: [m, C, H, W]."""
        data = ctx.require_server_data(2)
        held = np.bincount(data.labels)
        label = int(held.argmax()) if self.label is None else self.label
        found = np.flatnonzero(data.labels == label)[: self.samples]
        if len(found) < 2:
            rule = f"must hold at least 2 samples of class {label} for this method"
            raise ConfigError("server_data.samples", rule, len(found), 2)
        return data.images[found]

    def discrepancies(self, representations: np.ndarray, ctx: Context) -> Pairs:
        """MMD^2 [K, K] between the clients' finite representations [K, m, o]."""
        samples = centred(representations)
        with ctx.stage("bandwidth"):
            squared = self.squared_bandwidth(samples.reshape(-1, samples.shape[2]))
        return mmd_pairs(samples, ctx, squared_bandwidth=squared, estimator=self.mmd)

    def squared_bandwidth(self, points: np.ndarray) -> float:
        """sigma^2 for the representations [n, o] of all clients."""
        if self.bandwidth is not None:
            return self.bandwidth**2
        return median_squared_distance(points) or 1.0

    def number_of_neighbours(self, count: int) -> int:
        """How many each of K clients votes for, itself counted where it may."""
        wanted = round(count / 2) if self.neighbours is None else self.neighbours
        return min(wanted, count - 1)

    def closeness(self, averages: np.ndarray) -> np.ndarray:
        """What the softmax is taken of with trust=average: -inf for a client that is infinitely far."""
        beyond = averages - averages.min()
        scale = float(np.median(beyond[np.isfinite(beyond)]))
        closeness: np.ndarray = -beyond / (self.temperature * scale) if scale > 0 else -beyond
        return closeness

    def evidence(self, counts: np.ndarray) -> np.ndarray:
        """What the softmax is taken of."""
        return counts / self.temperature


@dataclass(frozen=True)
class FlareCode(Flare):
    """FLARE as ports of its published code have it: fewer neighbours, counts relative to their mean, more samples.

    Differs from `flare` in: K // 2 - 1 neighbours; weights softmax(ct / (temperature mean ct)), far flatter; up to 200
    samples; the unbiased estimator, cut off at 0; bandwidth None = sigma^2 = o / 2 for o features (gamma = 1 / o).
    No votes at all (K < 4): uniform weights.
    """

    samples: AtLeastTwo = 200
    """Server images shown to every model, at most (ports of the code: 200)."""
    mmd: Literal["paper", "unbiased"] = "unbiased"
    """Estimator of MMD: the `paper`'s or the `unbiased` one, cut off at 0 (defenses/mmd.py)."""

    @property
    def fewest_samples(self) -> int:
        """The published ports accept any number of samples."""
        return 2

    def discrepancies(self, representations: np.ndarray, ctx: Context) -> Pairs:
        """As FLARE's, never below 0."""
        return super().discrepancies(representations, ctx).map_tiles("mmd", _not_below_0)

    def squared_bandwidth(self, points: np.ndarray) -> float:
        """sigma^2 = o / 2 unless a bandwidth is given."""
        return self.bandwidth**2 if self.bandwidth is not None else points.shape[1] / 2.0

    def number_of_neighbours(self, count: int) -> int:
        """K // 2 - 1 unless given."""
        wanted = count // 2 - 1 if self.neighbours is None else self.neighbours
        return min(wanted, count - 1)

    def evidence(self, counts: np.ndarray) -> np.ndarray:
        """Counts relative to their mean."""
        return counts / (self.temperature * counts.mean()) if counts.any() else np.zeros(len(counts))


def representation(model: nn.Module, head: str, images: np.ndarray) -> np.ndarray:
    """What enters the last layer `head` of one client's model: [m, o] float32 for images [m, C, H, W]."""
    import torch

    shown = torch.from_numpy(np.array(images)).to(devices.here())
    return head_inputs(model, head, shown).flatten(1).cpu().numpy()


def votes(rows: np.ndarray, first: int, neighbours: int, include_self: bool = False) -> np.ndarray:
    """How often each client is among the nearest of some, for rows [t, K] of the discrepancies from row `first` on: [K] int.

    A client at an infinite discrepancy is not a neighbour; ties go to the lowest index. include_self: each client is its own
    nearest, unless its discrepancy to itself is infinite. Apart from that, the diagonal is not looked at.
    """
    own = np.arange(len(rows)), first + np.arange(len(rows))
    ranked = rows.copy()
    ranked[own] = np.where(include_self & np.isfinite(rows[own]), -np.inf, np.inf)
    if neighbours < 1:
        return np.zeros(rows.shape[1], np.int64)
    if neighbours >= rows.shape[1]:
        reached: np.ndarray = (ranked < np.inf).sum(axis=0)
        return reached
    last = np.partition(ranked, neighbours - 1, axis=1)[:, neighbours - 1 : neighbours]
    nearer, equal = ranked < last, ranked == last
    left = neighbours - nearer.sum(axis=1, keepdims=True)
    chosen = nearer | (equal & (np.cumsum(equal, axis=1) <= left))
    counts: np.ndarray = (chosen & (ranked < np.inf)).sum(axis=0)
    return counts


def averages_of_others(rows: np.ndarray, first: int) -> np.ndarray:
    """The mean discrepancy from all others, for rows [t, K] from row `first` on: [t]; 0 if there are none."""
    own = rows[np.arange(len(rows)), first + np.arange(len(rows))]
    means: np.ndarray = (rows.sum(axis=1, dtype=np.float64) - own) / max(rows.shape[1] - 1, 1)
    return means


def _not_below_0(discrepancies: np.ndarray) -> np.ndarray:
    clipped: np.ndarray = np.maximum(discrepancies, 0.0)
    return clipped


def softmax(values: np.ndarray) -> np.ndarray:
    """exp(v_i) / sum exp(v_j)."""
    powers = np.exp(values - values.max())
    shares: np.ndarray = powers / powers.sum()
    return shares
