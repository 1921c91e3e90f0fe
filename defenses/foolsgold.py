"""FoolsGold: clients that keep pushing the same way are taken for one attacker with many names.

Fung et al., "The limitations of federated learning in sybil settings", RAID 2020.

Published code that differs: FedGrad's and FLPoison's clip each round's addition to a client's history to norm 1
(option `clip`; FLPoison also combines the clipped updates). DBA's divides by K instead of by the sum of the weights,
FLPoison not at all (option `divide_by`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from defenses import row_history
from defenses.clip_norm import clip_factors
from defenses.cosine import cosines_from_gram
from defenses.features import head_updates
from raysim.context import Context, State
from raysim.defense import Defense, Verdict
from raysim.matrix.pair_distances import pair_products
from raysim.matrix.pairs import Pairs, is_whole
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates
from raysim.options import Positive
from raysim.requirement import Requirement

ALIKE = 1e-12
"""A cosine this close to 1 is 1: what rounding leaves of two equal histories must not be read as diversity."""


@dataclass(frozen=True)
class FoolsGold(Defense):
    """Lowers the weight of clients whose summed updates point the same way.

    State: {"history": {client id: float32 [C h]}} for `head`; for `all` a row of d for every client seen, which is what
    the method asks for, in tiles that stay where they were made (row_history.py). Scores: 1 - weight before normalisation;
    `weights` sum to 1 whatever the divisor. A client of weight 0 is flagged; when that is everybody the global
    model stays.
    """

    paper = "Fung et al., RAID 2020"
    judges_buffers = True
    on_buffers = "it compares the sums of each client's own updates, of whatever rounds"
    needs = frozenset({Requirement.GRAM, Requirement.LAST_LAYER})
    features: Literal["head", "all"] = "head"
    """What is summed and compared: the last layer's weights, `head` (the paper), or `all` parameters."""
    clip: Positive | None = None
    """Largest norm of one round's addition to a client's history (codes that clip: 1); null: none (the
    paper)."""
    divide_by: Literal["weights", "clients", "nothing"] = "weights"
    """Divisor of the weighted sum: the sum of `weights` (the paper), the number of `clients`, or
    `nothing`."""

    @property
    def reads_columns(self) -> bool:  # type: ignore[override]
        """Where whole updates are compared."""
        return self.features == "all"

    def needed(self) -> frozenset[Requirement]:
        """The last layer, unless all parameters are compared."""
        return self.needs - {Requirement.LAST_LAYER} if self.features == "all" else self.needs

    def init(self, ctx: Context) -> State:
        """Nobody has been seen."""
        return {"layers": []} if self.features == "all" else {"history": {}}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Add this round to the histories, compare them, weigh."""
        rows = updates if self.features == "all" else _head_rows(updates, ctx)
        scale = np.ones(updates.num_clients)
        if self.clip is not None:
            norms = np.sqrt(squared_norms(rows))
            scale = clip_factors(norms, self.clip)
        names = [str(client) for client in updates.client_ids]
        if self.features == "all":
            layers = row_history.published(state["layers"], rows.backend)
            histories = self._in_tiles(layers, rows, scale)
        else:
            past = state["history"]
            histories = add_history(rows, [past.get(name) for name in names], scale)
        similarity = pairwise_cosines(histories)
        closest = similarity.map_rows("foolsgold", closest_of)
        trust = rescaled(similarity.map_rows("foolsgold", excused_likeness, closest))
        with ctx.stage("weights"):
            weights = trust / trust.sum() if trust.any() else trust
            factors = {"weights": weights, "clients": trust / len(trust), "nothing": trust}[self.divide_by]
        if self.features == "all":
            state = {"layers": row_history.with_rows(layers, histories)}
        else:
            with ctx.stage("keep"):
                newest = dict(zip(names, histories.gather_rows(), strict=True))
                state = {"history": {**state["history"], **newest}}
        artifacts = {"similarity": similarity.to_array()} if similarity.is_whole else {}
        verdict = Verdict(updates.combine(factors), weights, 1.0 - trust, weights == 0, artifacts)
        return verdict, state

    def _in_tiles(self, layers: list[State], rows: Updates, scale: np.ndarray) -> Updates:
        """The histories of these clients, made of those that lie in tiles."""
        past = row_history.rows_of(layers, rows, rows.client_ids)
        if past is None:
            return add_history(rows, [None] * rows.num_clients, scale)
        known = np.searchsorted(rows.client_ids, past.client_ids).tolist()
        add = partial(_add_known, known, scale.astype(np.float32)[:, None], rows.dim)
        return rows.transform("history", add, row_history.copied(past).blocks[0].tiles)


def add_history(rows: Updates, past: list[np.ndarray | None], scale: np.ndarray) -> Updates:
    """Rows times scale [K], each with its vector of `past` [p] (None = nothing yet) added, where the columns lie.

    The vectors are stacked and published shard by shard; a task is given one.
    """
    known = [place for place, vector in enumerate(past) if vector is not None]
    vectors = [vector for vector in past if vector is not None]
    ends = [*rows.bounds, rows.bounds[-1]]  # buffers have no history
    stacked = tuple(rows.backend.put(_stack(vectors, first, last)) for first, last in pairwise(ends))
    add = partial(_add_known, known, scale.astype(np.float32)[:, None], rows.dim)
    return rows.transform("history", add, stacked)


def pairwise_cosines(rows: Updates) -> Pairs:
    """Cosines of all rows [K, K]."""
    if is_whole(rows.num_clients):
        return Pairs.whole(cosines_from_gram(rows.gram()), rows.backend)
    products, squares = pair_products(rows)
    lengths = np.sqrt(squares)
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return products.map_tiles("cosines", _scaled, inverse)


def foolsgold_weights(similarity: np.ndarray) -> np.ndarray:
    """Weights [K] in [0, 1] from the cosines [K, K] of the clients' histories (algorithm 1, confidence 1)."""
    return rescaled(excused_likeness(similarity, 0, closest_of(similarity, 0)))


def closest_of(rows: np.ndarray, first: int) -> np.ndarray:
    """The largest cosine with another client [t], of a few rows [t, K] of the cosines from row `first` on."""
    closest: np.ndarray = _alike(rows, first).max(axis=1)
    return closest


def excused_likeness(rows: np.ndarray, first: int, closest: np.ndarray) -> np.ndarray:
    """The largest cosine [t] of these rows after pardoning, for everybody's largest cosine, closest [K].

    Client i is excused for its likeness to a client j that is more like others than i is.
    """
    own = closest[first : first + len(rows), None]
    ratio = np.divide(own, closest, out=np.ones_like(rows), where=own < closest)
    likeness: np.ndarray = (_alike(rows, first) * ratio).max(axis=1)
    return likeness


def rescaled(likeness: np.ndarray) -> np.ndarray:
    """Weights [K] from what pardoning leaves of each client's largest cosine [K]."""
    weights: np.ndarray = np.clip(1.0 - likeness, 0.0, 1.0)
    if not weights.any():
        return weights
    weights = np.minimum(weights / weights.max(), 0.99)
    logit = np.full(len(weights), -np.inf)
    positive = weights > 0
    logit[positive] = np.log(weights[positive] / (1.0 - weights[positive])) + 0.5
    clipped: np.ndarray = np.clip(logit, 0.0, 1.0)
    return clipped


def _alike(rows: np.ndarray, first: int) -> np.ndarray:
    """Cosines with others: 1 where rounding alone keeps them from it, 0 with oneself."""
    similarity = np.where(rows > 1.0 - ALIKE, 1.0, rows)
    similarity[np.arange(len(rows)), first + np.arange(len(rows))] = 0.0
    return similarity


def _scaled(products: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray) -> np.ndarray:
    cosines: np.ndarray = products * of_rows[:, None] * of_columns
    return cosines


def _head_rows(updates: Updates, ctx: Context) -> Updates:
    """The last layer's weights as a matrix [K, C h] of their own."""
    return Updates.from_array(
        head_updates(updates, ctx, bias=False), updates.backend, client_ids=updates.client_ids
    )


def _stack(vectors: list[np.ndarray], first: int, last: int) -> np.ndarray:
    stacked = np.empty((len(vectors), last - first), np.float32)
    for row, vector in zip(stacked, vectors, strict=True):
        row[:] = vector[first:last]
    return stacked


def _add_known(
    known: list[int], scale: np.ndarray, dim: int, columns: np.ndarray, first: int, past: np.ndarray
) -> np.ndarray:
    if first >= dim:
        return columns
    summed: np.ndarray = columns * scale
    summed[known] += past
    return summed
