"""What the tests of training attacks share: a tiny network, its trainer, client data, and contexts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from raysim.attack import ClientContext
from raysim.data.client_data import ClientData, DataPool
from raysim.matrix.layout import Layout
from raysim.rng import torch_randomness
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class TinyFactory:
    """Images -> hidden layer of 6 -> class scores, with BatchNorm between where asked for."""

    num_classes: int = 4
    shape: tuple[int, int, int] = (1, 8, 8)
    batch_norm: bool = False
    cam_layer: str = "0"
    head: str = "4"

    def build(self) -> nn.Module:
        channels, height, width = self.shape
        with torch_randomness(3, "tiny"):
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(channels * height * width, 6),
                nn.BatchNorm1d(6) if self.batch_norm else nn.Identity(),
                nn.ReLU(),
                nn.Linear(6, self.num_classes),
            )


def tiny_trainer(recipe: TrainingRecipe | None = None, **options: Any) -> LocalTrainer:
    """A trainer of the tiny network, loaded with its initial state; SGD at .1, batches of 8."""
    factory = TinyFactory(**options)
    model = factory.build()
    layout = Layout.of(model)
    trainer = LocalTrainer(factory, layout, recipe or TrainingRecipe(epochs=2, batch_size=8))
    trainer.load(layout.vector(model))
    trainer.global_vector.copy_(trainer.vector)
    return trainer


def client_data(count: int = 24, seed: int = 0, num_classes: int = 4, shape: Any = (1, 8, 8)) -> ClientData:
    """Random images below white, labels in turn."""
    images = np.random.default_rng(seed).random((count, *shape), dtype=np.float32) / 2
    return ClientData(images, np.arange(count, dtype=np.int64) % num_classes)


def client_context(trainer: LocalTrainer, **options: Any) -> ClientContext:
    """Client 5, colluder 0 of 1, round 1, starting from the trainer's current vector."""
    settings: dict[str, Any] = {
        "seed": 0,
        "round": 1,
        "client": 5,
        "colluder": 0,
        "num_colluders": 1,
        "num_classes": trainer.factory.num_classes,
        "layout": trainer.layout,
        "global_vector": trainer.vector.numpy().copy(),
        "previous_global_vector": None,
        "trainer": trainer,
        "learning_rate": trainer.recipe.learning_rate,
        "cohort_examples": 240,
    }
    return ClientContext(**{**settings, **options})


def honest_training(ctx: ClientContext) -> Callable[..., np.ndarray]:
    """What the engine hands an attack for local training: fit from the round's global vector."""

    def fit(data: ClientData, **options: Any) -> np.ndarray:
        key = ("train", ctx.round, ctx.client)
        settings = {"learning_rate": ctx.learning_rate, **options}
        return ctx.trainer.fit(ctx.global_vector, data, key, seed=ctx.seed, **settings)

    return fit


class Recorded:
    """Stands in for local training: notes what it was asked, and returns a given update."""

    def __init__(self, update: np.ndarray) -> None:
        self.update = update
        self.calls: list[tuple[ClientData, dict[str, Any]]] = []

    def __call__(self, data: ClientData, **options: Any) -> np.ndarray:
        self.calls.append((data, options))
        return self.update.copy()

    @property
    def options(self) -> dict[str, Any]:
        """Options of the last call."""
        return self.calls[-1][1]


def pooled(*parts: ClientData) -> partial[DataPool]:
    """What a context's `pool` is, for colluders with these data."""
    whole = ClientData(
        np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts])
    )
    return partial(DataPool.of, whole)
