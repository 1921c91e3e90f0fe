"""Tutorial: a text model and a model of tables; which defenses take them, and which refuse and why.

Tokens [n, t] are integers, features [n, f] floats; both reach the model as they are. Defenses on updates, on the last
linear layer and on the server's own data need no more; class activation maps need images and a convolution.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import raysim

VOCABULARY, CLASSES = 30, 3


class Words(nn.Module):
    """The mean of the words' embeddings, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY, 8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(tokens))


def table_net(num_classes: int, input_shape: tuple[int, ...]) -> nn.Module:
    """A model may also be a function that builds it."""
    return nn.Sequential(nn.Linear(*input_shape, 16), nn.ReLU(), nn.Linear(16, num_classes))


def texts(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Six words each, most of them from the ten that its class prefers."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    own = 10 * labels[:, None] + draw.integers(0, 10, (count, 6))
    return np.where(draw.random((count, 6)) < 0.8, own, draw.integers(0, VOCABULARY, (count, 6))), labels


def tables(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, CLASSES, count)
    return draw.normal(size=(count, 5)) + 3 * np.eye(CLASSES, 5)[labels], labels


TASKS = {
    "text": {"model": Words, "data": (texts(200, 0), texts(50, 1))},
    "table": {"model": table_net, "data": (tables(200, 0), tables(50, 1))},
}
CONFIG: dict[str, Any] = {
    "rounds": 2,
    "population": {"clients": 6, "malicious": 1},
    "training": {"epochs": 10, "batch_size": 8, "optimizer": {"lr": 0.5}},
    "attack": {"name": "sign_flip"},
    "server_data": {"samples": 30},
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "defense",
    [
        {"name": "krum", "num_byzantine": 1},
        "median",
        "flame",
        "fltrust",
        "cosdefense",
        {"name": "flare", "samples": 5},
        "auror",
        {"name": "err", "num_byzantine": 1},
    ],
    ids=lambda defense: defense if isinstance(defense, str) else defense["name"],
)
def test_updates_last_layers_and_trust(task: str, defense: Any, tmp_path: Path) -> None:
    result = raysim.run(
        {**CONFIG, "defense": defense}, out=tmp_path, name="run", backend="inprocess", **TASKS[task]
    )
    assert np.isfinite(result.global_vector).all()
    assert result.rounds[-1]["main_accuracy"] > 0.6


@pytest.mark.parametrize("task", TASKS)
def test_backdoor_detectors_see_last_layers(task: str, tmp_path: Path) -> None:
    """FedGrad looks for backdoors: it is no match for flipped signs, and lets honest clients learn."""
    honest = {**CONFIG, "population": {"clients": 6}, "attack": None}
    defense = {"name": "fedgrad", "num_byzantine": 1}
    result = raysim.run(
        {**honest, "defense": defense}, out=tmp_path, name="run", backend="inprocess", **TASKS[task]
    )
    assert result.rounds[-1]["main_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("task", "groups", "reason"),
    [
        ("table", {"defense": "gradcam_ae"}, "works on images"),
        ("text", {"defense": "layercam_krum"}, "works on images"),
        ("text", {"defense": "deepsight"}, "tokens cannot be drawn"),
        ("table", {"attack": {"name": "trigger", "target": 1}}, "works on images"),
        ("table", {"attack": {"name": "edge_case", "target": 1}}, "works on images"),
        ("text", {"attack": {"name": "krum_backdoor", "target": 1}}, "works on images"),
        ("table", {"model": "digits_cnn"}, r"is for images \[C, H, W\]"),
    ],
)
def test_what_needs_images_refuses_before_the_start(
    task: str, groups: Any, reason: str, tmp_path: Path
) -> None:
    objects = {key: value for key, value in TASKS[task].items() if key not in groups}
    with pytest.raises(raysim.ConfigError, match=reason):
        raysim.run({**CONFIG, **groups}, out=tmp_path, name="run", **objects)
    assert not (tmp_path / "run").exists()


def test_maps_need_a_convolution(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((60, 1, 4, 4)), np.arange(60) % 3
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with pytest.raises(raysim.ConfigError, match="the model has no convolution"):
        raysim.run(
            {**CONFIG, "defense": "gradcam_ae"}, out=tmp_path, name="run", model=net, data=(images, images)
        )
