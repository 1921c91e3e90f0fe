"""Weight snapshots of a model that the server trains on its own data: what normal models look like.

The base of detectors that learn from them before the first round. They do not see whole models but *surrogates*:
the parameters of the last layer, or of the whole model, brought down to at most `surrogate_size` numbers by a
random sign projection if they are more, and standardised with the snapshots' statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from defenses.flags import check_some_remain
from defenses.sketch import sketch, sketch_codes, sketch_rows, sketch_size
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, Setting, State
from raysim.defense import Defense
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory
from raysim.options import AtLeastTwo, Count, PositiveInt
from raysim.requirement import Requirement
from raysim.training.recipe import TrainingRecipe

_LIMIT = 1e6
"""Standardised numbers are cut off here, so that squares of single-precision numbers stay finite."""


@dataclass(frozen=True)
class SnapshotDetector(Defense):
    """Base: trains the global model on the server's data and keeps its surrogate after every step."""

    needs = frozenset(
        {
            Requirement.SERVER_DATA,
            Requirement.SERVER_TRAINING,
            Requirement.AUTOENCODER,
            Requirement.LAST_LAYER,
        }
    )
    num_byzantine: Count | None = None
    """Highest scores to drop; null: as the detector's own rule has it."""
    surrogate: Literal["head", "all"] = "head"
    """Parameters that stand for a model: those of the last layer, `head`, or `all`."""
    surrogate_size: PositiveInt = 4096
    """Numbers that a surrogate has at most."""
    num_snapshots: AtLeastTwo = 50
    """Training steps of the server's own, each of which gives one model to learn from."""

    def needed(self) -> frozenset[Requirement]:
        """The last layer, unless all parameters stand for a model."""
        return self.needs - {Requirement.LAST_LAYER} if self.surrogate == "all" else self.needs

    def check(self, setting: Setting) -> None:
        """A cohort that is not removed entirely."""
        check_some_remain(self.num_byzantine, setting)

    def learn(self, ctx: Context) -> tuple[State, np.ndarray]:
        """Train for `num_snapshots` steps of the clients' recipe, in one task.

        Returns ({"mean", "deviation"} of the surrogates [size], the standardised snapshots [n, size] float32).
        """
        data = ctx.require_server_data()
        codes = self._codes(ctx)
        seed = int(ctx.generator("snapshots").integers(2**31))
        settings = (ctx.model, ctx.layout, ctx.recipe, codes, self.num_snapshots, seed)
        samples = (ctx.published, data.images, data.labels)
        taken = ctx.run("pretrain", _train, *samples, *settings, needs=ACCELERATED)
        deviation = taken.std(axis=0)
        state = {"mean": taken.mean(axis=0), "deviation": np.where(deviation > 0, deviation, 1.0)}
        return state, _standardise(taken, state)

    def points(self, state: State, updates: Updates, ctx: Context) -> np.ndarray:
        """The standardised surrogates of the clients' models w_G + u_i, [K, size] float32."""
        codes = self._codes(ctx)
        size = sketch_size(codes)
        moved = sketch_rows(updates, codes, size, "surrogates")
        return _standardise(moved + sketch(ctx.global_parameters, codes, size), state)

    def _codes(self, ctx: Context) -> np.ndarray:
        """The projection [d] (see sketch.py), the same in every round."""
        entries = None
        if self.surrogate == "head":
            entries = [ctx.layout.entry(f"{ctx.model.head}.{name}") for name in ("weight", "bias")]
        with ctx.stage("sketch_codes"):
            generator = ctx.lasting_generator("surrogate")
            return sketch_codes(ctx.layout.dim, self.surrogate_size, generator, entries)


def _standardise(points: np.ndarray, state: State) -> np.ndarray:
    scaled = (points - state["mean"]) / state["deviation"]
    limited: np.ndarray = np.clip(scaled, -_LIMIT, _LIMIT).astype(np.float32)
    return limited


def _train(
    vector: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    factory: ModelFactory,
    layout: Layout,
    recipe: TrainingRecipe,
    codes: np.ndarray,
    count: int,
    seed: int,
) -> np.ndarray:
    from raysim.data.client_data import ClientData
    from raysim.training.local import LocalTrainer

    size = sketch_size(codes)
    taken: list[np.ndarray] = []

    def record(trainer: LocalTrainer, step: int, last: bool) -> None:
        if len(taken) < count:
            taken.append(sketch(trainer.parameters.detach().cpu().numpy(), codes, size))

    trainer = LocalTrainer(factory, layout, recipe, devices.here())
    batches = max(len(labels) // recipe.batch_size, 1)  # at least: a short last batch may be left out
    epochs = -(-count // batches)
    trainer.fit(
        vector, ClientData(images, labels), ("snapshots",), seed=seed, epochs=epochs, after_step=record
    )
    return np.array(taken)
