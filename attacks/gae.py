"""Graph-autoencoder model poisoning: rewrite the correlations among overheard benign models, at the edge of their spread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le

from attacks.graph_autoencoder import (
    AutoencoderRecipe,
    cosine_graph,
    fit_autoencoder,
    initial_weights,
    laplacian_basis,
    repeated,
)
from attacks.rows import mean_buffers, mean_row
from raysim.attack import Attack, ClientContext, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.data.client_data import ClientData
from raysim.matrix.new_rows import rows_from
from raysim.matrix.row_products import squares_about
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, Count, NotNegative, Positive, PositiveInt

if TYPE_CHECKING:
    from raysim.training.local import LocalTrainer

BATCH = 256
"""Samples in a forward pass of the climb."""


@dataclass(frozen=True)
class GAE(Attack):
    """Submit overheard models whose correlations a graph autoencoder has redrawn, pushed to the edge of their spread.

    Of J overheard benign models, M coordinates (the same in every round) form F [J, M]. Their graph A (an
    edge where two coordinates' cosine over the models exceeds a threshold) is reconstructed as A^ by a graph
    autoencoder; with B, B^ the eigenvectors of the two Laplacians, F^ = F B B^^T. An attacker starts from row
    (its id mod J) of F^ on the M coordinates and the mean w_ref of the overheard models elsewhere. From there
    it maximises the global model's loss subject to D(w', w_ref) <= r (LayerCAM-AE, eq. 8), r = bound_factor times the
    largest D(w_j, w_ref): by dual ascent in steps of `step` r along the loss's direction n, the multiplier growing while
    the bound is exceeded; then it is put on the bound, which a linear loss makes active. Buffers are the overheard mean.

    The direction n is one a round: `surrogate` is -mean update / its norm; for `loss` each attacker trains honestly on its
    own data and climbs from there, in `climb_steps` steps that together are as long as its training, along the gradient
    of its data's loss, and n is the mean of these climbs. Fewer than two overheard models leave w_G (`loss`: w_G plus the
    own climb). Values of `models` differ so little between clients that cosines are near 1 or -1: A is then two cliques,
    by sign, whose eigenvectors are arbitrary. With `clients` as nodes F^ = B^ B^T F.

    What of the original is unknown: its full text was not at hand; what is followed is its abstract, LayerCAM-AE's
    account and the VGAE successor. Open there are r, w_ref without w' (with it the constraint is circular), how an attacker
    without data knows the loss, the ascent's steps and their number, and which row is whose. The published
    code's step, 1e-3 in units of the parameters, ends 200 steps .2 away from where it began, whatever r; and what was
    published as code has neither ascent nor bound: `gae_code`. With the loss taken as linear, the maximum of eq. 8 is
    w_ref + r n, whatever the graph says: its part of the distance (`graph_share` in the diagnostics) fades as the
    ascent goes on. A mean over K clients, c of them attackers, loses c / K of r at most in a round: this slows it down,
    and does not destroy it where c / K is small (docs/results/gae.md).

    The vectors of the ascent stay in the span of F^ - w_ref and n, so that it is done on two
    numbers per attacker. Source: Li et al., TIFS 2024.
    """

    paper = "Li et al., IEEE TIFS 2024"
    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Overhears benign models."""
    direction: Literal["surrogate", "loss"] = "surrogate"
    """Direction of the ascent: against the mean update, `surrogate`, which needs no data, or up the `loss` of the
    attackers' own data."""
    climb_steps: PositiveInt = 10
    """Steps in which an attacker climbs its own data's loss, where direction is `loss`."""
    bound_factor: Positive = 1.0
    """Radius r of the bound, in largest distances of an overheard model from their mean."""
    num_overheard: AtLeastTwo | None = None
    """Number J of benign models overheard, drawn each round; null: all of the round."""
    num_coordinates: PositiveInt = 1000
    """Number M of coordinates in the graph, at most d."""
    features: Literal["models", "updates"] = "updates"
    """What the cosines and F are of: overheard `models`, or their `updates`."""
    graph: Literal["coordinates", "clients"] = "coordinates"
    """What the nodes are: `coordinates`, or `clients` (J nodes of M features)."""
    threshold: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Cosine above which two nodes have an edge."""
    hidden: PositiveInt = 32
    """Units of the autoencoder's hidden layer (Li et al.: 32)."""
    latent: PositiveInt = 16
    """Numbers in a node's code (Li et al.: 16)."""
    epochs: Count = 20
    """Steps of Adam that fit the autoencoder (Li et al.: 10 to 20)."""
    learning_rate: Positive = 0.01
    """Learning rate of the autoencoder's Adam."""
    variational: bool = False
    """Whether codes are drawn, and kl_weight times the KL divergence is added (the authors' VGAE)."""
    kl_weight: NotNegative = 0.1
    """Weight of the KL divergence where variational is true."""
    warm_start: bool = False
    """Whether last round's autoencoder is trained on, where its number of inputs is the same."""
    ascent_steps: Count = 200
    """Steps of the dual ascent."""
    step: NotNegative = 0.02
    """Step of the model in the dual ascent, in units of the bound r."""
    dual_step: NotNegative = 0.5
    """Step of the multiplier in the dual ascent, per r by which the bound is exceeded."""
    initial_multiplier: NotNegative = 0.1
    """Multiplier of the distance's bound at the start of the ascent."""
    project: bool = True
    """Whether the result is put on the bound after the ascent."""

    @property
    def trains(self) -> bool:
        """Only if the direction is that of the own data's loss."""
        return self.direction == "loss"

    @property
    def recipe(self) -> AutoencoderRecipe:
        """The autoencoder's part of the options."""
        kl_weight = self.kl_weight if self.variational else None
        return AutoencoderRecipe(self.hidden, self.latent, self.epochs, self.learning_rate, kl_weight)

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """How the parameters [d] climb from the honestly trained model; buffers as after that training."""
        update = honest_train(data)
        if not len(data):
            return update
        dim = ctx.layout.dim
        length = float(np.linalg.norm(update[:dim].astype(np.float64)))
        update[:dim] = climb(ctx.trainer, ctx.global_vector + update, data, self.climb_steps, length)
        return update

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """One row per attacker."""
        heard = overheard(view, self.num_overheard, ctx)
        if heard is None or heard.num_clients < 2:
            return None, {**state, "said": {}}
        count = min(self.num_coordinates, heard.dim)
        chosen = ctx.lasting_generator("gae", "coordinates").choice(heard.dim, count, replace=False)
        coordinates = np.sort(chosen)
        mean = mean_row(heard, "gae_measure")
        published = ctx.put(mean)
        if self.direction == "loss":
            climbs = mean_row(view.own, "gae_measure")
            uphill, sign = ctx.put(climbs), 1.0
        else:
            climbs, uphill, sign = mean, published, -1.0
        norm = float(np.einsum("c,c->", climbs, climbs)) ** 0.5
        distances = np.sqrt(squares_about(heard, published, "gae_measure"))
        updates = np.array(
            heard.map_row_stage(RowStage("gae_measure", _columns, (coordinates,), buffers=False))
        )

        features = updates
        if self.features == "models":
            features = updates + ctx.global_parameters[coordinates].astype(np.float64)
        theta = state.get("theta", []) if self.warm_start else []
        rewritten, theta, said = ctx.run(
            "gae_autoencoder", _rewrite, features, theta, self, ctx.generator("gae", "autoencoder")
        )

        bound = self.bound_factor * float(distances.max())
        rows = rewritten[view.own.client_ids % heard.num_clients] - features.mean(0)
        direction = sign * climbs[coordinates] / norm if norm > 0 else np.zeros(count)
        made = [self._ascend(row, direction, norm > 0, bound) for row in rows]
        alphas, betas, lengths = (np.array(values) for values in zip(*made, strict=True))
        make = partial(
            _crafted_row,
            sign * betas / norm if norm > 0 else np.zeros(len(rows)),
            alphas[:, None] * rows,
            coordinates,
            ctx.layout.dim,
            mean_buffers(heard, "gae"),
        )
        crafted = rows_from(
            view.own, np.arange(len(rows)), "gae", make, published, uphill,
            client_ids=view.own.client_ids, num_examples=view.own.num_examples,
        )  # fmt: skip
        said |= distance_report(float(lengths.max()), bound)
        drawn = np.abs(alphas) * np.linalg.norm(rows, axis=1)
        said["graph_share"] = float(np.max(drawn / np.where(lengths > 0, lengths, 1.0)))
        return crafted, {"theta": theta, "said": said}

    def diagnostics(self, state: State) -> Diagnostics:
        """distance (the attackers' largest, to the overheard mean), bound, within_bound;
        graph_share (of that distance, what the rewritten features are; the largest); edges, autoencoder_loss, repeated_eigenvalues."""
        return dict(state.get("said", {}))

    def _ascend(
        self, row: np.ndarray, direction: np.ndarray, moves: bool, bound: float
    ) -> tuple[float, float, float]:
        """(alpha, beta, length) of w' - w_ref = alpha row + beta n after the dual ascent, put on the bound.

        row [M]: where w' starts, minus w_ref (zero elsewhere); direction [M]: n on the same coordinates;
        moves: whether there is a direction at all (without one, nothing is put further out than it lies).
        """
        square, inner = float(row @ row), float(row @ direction)

        def length() -> float:
            return float(max(alpha**2 * square + 2 * alpha * beta * inner + beta**2 * moves, 0.0) ** 0.5)

        alpha, beta, multiplier = 1.0, 0.0, self.initial_multiplier
        step = self.step * bound
        for _ in range(self.ascent_steps if bound > 0 else 0):
            now = length()
            shrink = 1 - step * multiplier / now if now > 0 else 1.0
            alpha, beta = shrink * alpha, shrink * beta + step * moves
            multiplier = max(0.0, multiplier + self.dual_step * (length() / bound - 1))
        now = length()
        climbed = moves and self.ascent_steps > 0 and step > 0
        if self.project and now > 0 and (now > bound or climbed):
            alpha, beta = bound / now * alpha, bound / now * beta
        return alpha, beta, length()


def overheard(view: View, wanted: int | None, ctx: Context) -> Updates | None:
    """The benign rows that are overheard this round: all, or `wanted` of them drawn."""
    if view.benign is None or wanted is None or wanted >= view.benign.num_clients:
        return view.benign
    drawn = ctx.generator("gae", "overheard").permutation(view.benign.num_clients)[:wanted]
    return view.benign.select(drawn)


def distance_report(distance: float, bound: float) -> Diagnostics:
    """The diagnostics of a crafted model's distance; rounding of float32 rows is forgiven."""
    return {"distance": distance, "bound": bound, "within_bound": distance <= bound * (1 + 1e-6)}


def climb(
    trainer: LocalTrainer, vector: np.ndarray, data: ClientData, steps: int, length: float
) -> np.ndarray:
    """How far parameters come from `vector` [d + b] up the loss of the data: [d] float32, at most `length` long.

    Each of the steps is length / steps along the normalised gradient of the mean cross-entropy, in evaluation mode.
    """
    import torch
    from torch.nn import functional

    from raysim.training.local import channels_last

    trainer.load(vector)
    trainer.model.eval()
    start = trainer.parameters.clone()
    images, labels = (torch.from_numpy(values).to(trainer.device) for values in (data.images, data.labels))
    for _ in range(steps):
        trainer.gradient.zero_()
        for x, y in zip(images.split(BATCH), labels.split(BATCH), strict=True):
            scores = trainer.model(channels_last(x))
            (functional.cross_entropy(scores, y, reduction="sum") / len(labels)).backward()
        norm = float(trainer.gradient.double().norm())
        if not 0 < norm < float("inf"):
            break
        with torch.no_grad():
            trainer.parameters.add_(trainer.gradient, alpha=length / steps / norm)
    climbed: np.ndarray = (trainer.parameters - start).cpu().numpy()
    return climbed


def _columns(rows: np.ndarray, tiles: Sequence[np.ndarray], coordinates: np.ndarray) -> list[np.ndarray]:
    """The chosen coordinates of every row, [M] float64 each."""
    bounds = np.cumsum([0, *(tile.shape[1] for tile in tiles)])
    shards = np.searchsorted(bounds, coordinates, side="right") - 1
    out = np.empty((len(rows), len(coordinates)))
    for shard, tile in enumerate(tiles):
        here = np.flatnonzero(shards == shard)
        out[:, here] = tile[np.ix_(rows, coordinates[here] - bounds[shard])]
    return list(out)


def _rewrite(
    features: np.ndarray, theta: list[np.ndarray], attack: GAE, generator: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray], Diagnostics]:
    """F [J, M] -> (F^ [J, M], the fitted weights, what to say of it)."""
    nodes = features.T if attack.graph == "coordinates" else features
    adjacency = cosine_graph(nodes, attack.threshold)
    weights = initial_weights(nodes.shape[1], attack.recipe, generator)
    if [np.shape(values) for values in theta] == [values.shape for values in weights]:
        weights = theta
    redrawn, weights, loss = fit_autoencoder(adjacency, nodes, weights, attack.recipe, generator)
    basis, eigenvalues = laplacian_basis(adjacency)
    new_basis, _ = laplacian_basis(redrawn)
    rewritten = new_basis @ (basis.T @ nodes)
    said: Diagnostics = {
        "edges": int(adjacency.sum()) // 2,
        "autoencoder_loss": loss,
        "repeated_eigenvalues": repeated(eigenvalues),
    }
    return (rewritten.T if attack.graph == "coordinates" else rewritten), weights, said


def _crafted_row(
    scales: np.ndarray,
    added: np.ndarray,
    coordinates: np.ndarray,
    dim: int,
    buffers: np.ndarray,
    values: np.ndarray,
    first: int,
    number: int,
    mean: np.ndarray,
    uphill: np.ndarray,
) -> np.ndarray:
    """The mean plus scale times `uphill`, plus `added` [attackers, M] on the coordinates; the buffers [b] given."""
    if first >= dim:
        return buffers[first - dim : first - dim + len(values)]
    out: np.ndarray = (mean + scales[number] * uphill).astype(np.float32)
    inside = slice(*np.searchsorted(coordinates, (first, first + len(out))))
    out[coordinates[inside] - first] += added[number, inside]
    return out
