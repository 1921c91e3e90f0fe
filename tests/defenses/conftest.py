"""What the tests of defenses share: update matrices, contexts, and a small model with server data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from raysim.backends.base import InProcessBackend
from raysim.context import Context, ServerData
from raysim.defense import Defense, Verdict
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models import MODELS, build_model
from tests.peers import byzfl_names


@dataclass(frozen=True)
class DigitsFactory:
    """A digits_cnn for 8 x 8 images, as a picklable recipe."""

    num_classes: int = 10
    width: float = 0.25
    seed: int = 0
    input_shape: tuple[int, int, int] = (1, 8, 8)
    cam_layer: str = MODELS["digits_cnn"].cam_layer
    head: str = MODELS["digits_cnn"].head

    def build(self) -> nn.Module:
        return build_model(
            "digits_cnn",
            num_classes=self.num_classes,
            input_shape=(1, 8, 8),
            seed=self.seed,
            width=self.width,
        )


@dataclass(frozen=True)
class TinyModel:
    """A model's factory, its layout, its state as the global vector, and labelled images it can learn."""

    factory: DigitsFactory
    layout: Layout
    vector: np.ndarray
    server_data: ServerData


def build_updates(deltas: Any, **options: Any) -> Updates:
    """Updates of a K x d matrix on an in-process backend; options as Updates.from_array's."""
    options.setdefault("backend", InProcessBackend())
    return Updates.from_array(np.asarray(deltas, np.float32), **options)


def build_context(updates: Updates, **options: Any) -> Context:
    """A context for these updates: round 1 of 10, seed 0, all-zero global parameters unless given."""
    vector = options.pop("global_vector", np.zeros(updates.layout.num_columns, np.float32))
    settings: dict[str, Any] = {"seed": 0, "role": "defense", "round": 1, "rounds": 10}
    settings |= {"backend": updates.backend, "layout": updates.layout}
    published = updates.backend.put(vector)
    return Context(**{**settings, "published": published, "global_vector": vector, **options})


@pytest.fixture
def make_updates() -> Callable[..., Updates]:
    """make_updates(U, **options) -> Updates."""
    return build_updates


@pytest.fixture
def make_context() -> Callable[..., Context]:
    """make_context(updates, **fields) -> Context."""
    return build_context


@pytest.fixture
def judge() -> Callable[..., Any]:
    """judge(defense, state, updates, ctx) -> (verdict, state), typed so that no test need narrow optional fields."""

    def apply(defense: Any, state: Any, updates: Updates, ctx: Context) -> Any:
        return defense.apply(state, updates, ctx)

    return apply


@pytest.fixture
def apply_once() -> Callable[..., Verdict]:
    """apply_once(defense, U, **options of Updates.from_array) -> the verdict of a first round."""

    def apply(defense: Defense, deltas: Any, **options: Any) -> Verdict:
        updates = build_updates(deltas, **options)
        context = build_context(updates)
        return defense.apply(defense.init(context), updates, context)[0]

    return apply


@pytest.fixture(scope="session")
def byzfl() -> SimpleNamespace:
    """The rules of ByzFL, an independent implementation; skips where it is not installed."""
    return byzfl_names("aggregators.aggregators", "aggregators.preaggregators")


@pytest.fixture(scope="session")
def tiny_model() -> TinyModel:
    """A digits_cnn of width 1/4 and 40 images whose bright quadrant tells their class (of 4, out of 10)."""
    factory = DigitsFactory()
    model = factory.build()
    layout = Layout.of(model)
    draw = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = draw.uniform(0, 0.2, (40, 1, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 0.8
    return TinyModel(factory, layout, layout.vector(model), ServerData(images, labels.astype(np.int64)))
