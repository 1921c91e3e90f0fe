"""FLTrust: trust a client as far as its update points where the server's own does.

Cao et al., "FLTrust: Byzantine-robust federated learning via trust bootstrapping", NDSS 2021.

As in the paper, nobody trusted leaves the global model as it is. Published code that differs: FLPoison then averages
all updates uniformly, at the length of the server's (option `no_trust`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.cosine import cosines_from_products
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, ServerData, State
from raysim.data.client_data import ClientData
from raysim.defense import Defense, Verdict
from raysim.matrix.layout import Layout
from raysim.matrix.row_products import products_with
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory
from raysim.requirement import Requirement
from raysim.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class FLTrust(Defense):
    """Weights updates by their clipped cosine with an update trained on the server's data, at its length.

    TS_i = max(0, cos(u_i, u_0)); aggregate = sum TS_i |u_0| u_i / |u_i| / sum TS_i, where u_0 is trained on all
    server data by the clients' recipe. Scores: 1 - cosine. A client of trust 0 is flagged. A single client passes
    through as it is.
    """

    paper = "Cao et al., NDSS 2021"
    judges_buffers = True
    on_buffers = (
        "it asks whether an update points where the server's own does at the newest model, which it is to be "
        "added to; a stale honest one does less"
    )
    needs = frozenset({Requirement.SERVER_DATA, Requirement.SERVER_TRAINING})
    no_trust: Literal["keep", "uniform"] = "keep"
    """When nobody is trusted: `keep` the global model, all flagged, or take the `uniform` mean, none flagged."""

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Train on the server, compare directions, combine at one length."""
        reference = ctx.run(
            "server_update",
            train_on_server,
            ctx.model,
            ctx.layout,
            ctx.recipe,
            ctx.published,
            ctx.require_server_data(),
            ctx.seed,
            ctx.round,
            needs=ACCELERATED,
        )[: updates.dim]
        products = products_with(updates, ctx.put(reference), "similarity")
        with ctx.stage("trust"):
            own_length = np.sqrt(reference.astype(np.float64) @ reference)
            lengths = np.sqrt(products[:, 1])
            both = lengths * own_length
            cosines = cosines_from_products(products[:, 0], both)
            trust = np.maximum(cosines, 0.0)
            if self.no_trust == "uniform" and not trust.any():
                trust = np.ones_like(trust)
            weights = trust / trust.sum() if trust.any() else trust
            scale = np.divide(own_length, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        if updates.num_clients == 1:
            weights, scale = np.ones(1), np.ones(1)
        # Trust ends at cosine 0.
        scores, aggregate = 1.0 - cosines, updates.combine(weights * scale)
        return Verdict(aggregate, weights, scores, weights == 0, threshold=1.0), state


def train_on_server(
    factory: ModelFactory,
    layout: Layout,
    recipe: TrainingRecipe,
    global_vector: np.ndarray,
    data: ServerData,
    seed: int,
    round: int,
) -> np.ndarray:
    """The update [d + b] that local training by `recipe` makes of the server's data."""
    from raysim.training.local import LocalTrainer

    trainer = LocalTrainer(factory, layout, recipe, devices.here())
    client = ClientData(np.array(data.images), np.array(data.labels))  # torch wants them writable
    return trainer.fit(global_vector, client, ("server_update", round), seed=seed)
