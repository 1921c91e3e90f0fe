"""Graph-autoencoder model poisoning: rewrite the correlations among overheard benign models, within their spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

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
from raysim.attack import Attack, Diagnostics, View, Visibility
from raysim.context import Context, State
from raysim.matrix.new_rows import rows_from
from raysim.matrix.row_products import squares_about
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.options import AtLeastTwo, Count, NotNegative, Positive, PositiveInt


@dataclass(frozen=True)
class GAE(Attack):
    """Submit overheard models whose graph of correlations a graph autoencoder has redrawn, near their mean.

    Of J overheard benign models, M coordinates (the same in every round) form F [J, M]. Their graph A (an
    edge where two coordinates' cosine over the models exceeds a threshold) is reconstructed as A^ by a graph
    autoencoder; with B, B^ the eigenvectors of the two Laplacians, F^ = F B B^^T. An attacker takes row
    (its id mod J) of F^ on the M coordinates and the mean of the overheard models elsewhere; then, by dual
    ascent on the multiplier of D(w', w_ref) <= r, moves along -mean update / its norm (the surrogate for
    the global loss, which needs no data), w_ref the overheard mean, r the largest D(w_j, w_ref); and is
    projected onto that ball. Buffers are the overheard mean. Fewer than two overheard models leave w_G.

    num_overheard: J; None: every benign model of the round; else drawn anew each round.
    num_coordinates: M, at most d. features: cosines and F of `models` or of `updates`.
    graph: nodes are `coordinates`, or `clients` (J nodes with M features, F^ = B^ B^T F).
    threshold: of the cosine. hidden, latent, epochs, learning_rate: the autoencoder (32, 16, 10 to 20
    epochs of Adam). variational: draws codes and adds kl_weight times the KL divergence (the authors' VGAE).
    warm_start: begin with last round's autoencoder where the number of its inputs is the same.
    ascent_steps, step, dual_step, initial_multiplier: of the dual ascent. project: the final projection.

    The vectors of the ascent stay in the span of F^ - w_ref and the direction, so that it is done on two
    numbers per attacker. Every attacker's distance to w_ref, r, and whether it holds are in the diagnostics.
    The paper's text leaves these open: r, w_ref without w' (with it the constraint is circular), the
    data-agnostic loss, and row by attacker id. Source: Li et al., TIFS 2024. What was published as code is
    another method: `gae_code`.
    """

    paper = "Li et al., IEEE TIFS 2024"
    visibility: ClassVar[Visibility] = Visibility.OMNISCIENT
    """Overhears benign models."""
    trains: ClassVar[bool] = False
    """No: the attackers need no data."""
    num_overheard: AtLeastTwo | None = None
    """Number J of benign models overheard, drawn each round; null: all of the round."""
    num_coordinates: PositiveInt = 1000
    """Number M of coordinates in the graph, at most d."""
    features: Literal["models", "updates"] = "models"
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
    step: NotNegative = 1e-3
    """Step of the model in the dual ascent, in units of the parameters."""
    dual_step: NotNegative = 1e-3
    """Step of the multiplier in the dual ascent."""
    initial_multiplier: NotNegative = 0.1
    """Multiplier of the distance's bound at the start of the ascent."""
    project: bool = True
    """Whether the result is projected onto the ball that the distance's bound describes."""

    @property
    def recipe(self) -> AutoencoderRecipe:
        """The autoencoder's part of the options."""
        kl_weight = self.kl_weight if self.variational else None
        return AutoencoderRecipe(self.hidden, self.latent, self.epochs, self.learning_rate, kl_weight)

    def craft(self, state: State, view: View, ctx: Context) -> tuple[Updates | np.ndarray | None, State]:
        """One row per attacker."""
        heard = overheard(view, self.num_overheard, ctx)
        if heard is None or heard.num_clients < 2:
            return None, {**state, "said": {}}
        count = min(self.num_coordinates, heard.dim)
        chosen = ctx.lasting_generator("gae", "coordinates").choice(heard.dim, count, replace=False)
        coordinates = np.sort(chosen)
        mean = mean_row(heard, "gae_measure")
        published, mean_norm = ctx.put(mean), float(np.einsum("c,c->", mean, mean)) ** 0.5
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

        bound = float(distances.max())
        rows = rewritten[view.own.client_ids % heard.num_clients] - features.mean(0)
        direction = updates.mean(0) / mean_norm if mean_norm > 0 else np.zeros(count)
        made = [self._ascend(row, direction, mean_norm > 0, bound) for row in rows]
        alphas, betas, lengths = (np.array(values) for values in zip(*made, strict=True))
        scales = 1 + (betas / mean_norm if mean_norm > 0 else betas)
        make = partial(
            _crafted_row,
            scales,
            alphas[:, None] * rows,
            coordinates,
            ctx.layout.dim,
            mean_buffers(heard, "gae"),
        )
        crafted = rows_from(
            view.own, np.arange(len(rows)), "gae", make, published,
            client_ids=view.own.client_ids, num_examples=view.own.num_examples,
        )  # fmt: skip
        said |= distance_report(float(lengths.max()), bound)
        return crafted, {"theta": theta, "said": said}

    def diagnostics(self, state: State) -> Diagnostics:
        """distance (the attackers' largest, to the overheard mean), bound, within_bound; edges, autoencoder_loss, repeated_eigenvalues."""
        return dict(state.get("said", {}))

    def _ascend(
        self, row: np.ndarray, direction: np.ndarray, moves: bool, bound: float
    ) -> tuple[float, float, float]:
        """(alpha, beta, length) of w' - w_ref = alpha row + beta n after the dual ascent and the projection.

        row [M]: where w' starts, minus w_ref (zero elsewhere); direction [M]: n on the same coordinates;
        moves: whether there is a direction at all.
        """
        square, inner = float(row @ row), float(row @ direction)

        def length() -> float:
            return float(max(alpha**2 * square + 2 * alpha * beta * inner + beta**2 * moves, 0.0) ** 0.5)

        alpha, beta, multiplier = 1.0, 0.0, self.initial_multiplier
        for _ in range(self.ascent_steps):
            now = length()
            shrink = 1 - self.step * multiplier / now if now > 0 else 1.0
            alpha, beta = shrink * alpha, shrink * beta - self.step * moves
            multiplier = max(0.0, multiplier + self.dual_step * (length() - bound))
        if self.project and length() > bound:
            scale = bound / length()
            alpha, beta = scale * alpha, scale * beta
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
) -> np.ndarray:
    """scale times the mean, plus `added` [attackers, M] on the coordinates; the buffers [b] given."""
    if first >= dim:
        return buffers[first - dim : first - dim + len(values)]
    out: np.ndarray = (scales[number] * mean).astype(np.float32)
    inside = slice(*np.searchsorted(coordinates, (first, first + len(out))))
    out[coordinates[inside] - first] += added[number, inside]
    return out
