"""Tutorial: a model of one's own on arrays of one's own, attacked and defended, on Ray.

A model is a torch module; data are two pairs of arrays (inputs, labels), to train and to test. Nothing is registered,
and nothing need be importable: what a program or a notebook defines is sent to Ray's workers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import raysim


class TinyNet(nn.Module):
    """One convolution, which class activation maps look at, and a last linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4 * 4 * 4, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.convolution(images).relu()
        return self.head(nn.functional.max_pool2d(maps, 2).flatten(1))


def bars(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images [n, 1, 8, 8] uint8 with a bright row, whose number is the class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count)
    images = draw.integers(0, 60, (count, 1, 8, 8), np.uint8)
    images[np.arange(count), 0, 2 * labels] = 250
    return images, labels


@pytest.mark.ray
def test_own_model_on_own_arrays(ray_cluster: None, tmp_path: Path) -> None:
    config = {
        "rounds": 3,
        "population": {"clients": 6, "malicious": 1},
        "training": {"epochs": 4, "optimizer": {"lr": 0.2}},
        "attack": {"name": "sign_flip"},
        "defense": {"name": "layercam_krum", "num_byzantine": 1},
        "server_data": {"samples": 8},
    }
    objects = {"model": TinyNet, "data": (bars(160, 0), bars(40, 1))}
    on_ray = {**config, "resources": {"clients_per_actor": 6}}
    result = raysim.run(on_ray, name="ray", out=tmp_path, **objects)
    assert result.rounds[-1]["main_accuracy"] > 0.9
    again = raysim.run(config, name="here", out=tmp_path, backend="inprocess", **objects)
    assert again.digest == result.digest
