"""Networks of a few dozen parameters, and the hand-written training loop they are checked against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from raysim import rng
from raysim.matrix.layout import Layout


@dataclass(frozen=True)
class SmallNet:
    """A network for [n, 1, 4, 4] images and 3 classes: `linear`, or with `dropout`, or with `batchnorm`."""

    kind: str = "linear"
    num_classes: int = 3
    cam_layer: str = "body"
    head: str = "head"

    def build(self) -> nn.Module:
        with rng.torch_randomness(0, "small net"):
            layers: dict[str, nn.Module] = {"flat": nn.Flatten(), "body": nn.Linear(16, 5)}
            if self.kind == "batchnorm":
                layers["norm"] = nn.BatchNorm1d(5)
            layers["relu"] = nn.ReLU()
            if self.kind == "dropout":
                layers["drop"] = nn.Dropout(0.5)
            layers["head"] = nn.Linear(5, 3)
            model = nn.Sequential()
            for name, layer in layers.items():
                model.add_module(name, layer)
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.4)
        return model


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 1, 4, 4] float32 in [0, 1] and labels [count] int64 below 3."""
    draw = np.random.default_rng(seed)
    return draw.random((count, 1, 4, 4), dtype=np.float32), draw.integers(0, 3, count)


def torch_loop(model, images, labels, batches, make_optimizer) -> np.ndarray:
    """Plain torch: train `model` in place on these batches (index arrays); its parameters and buffers after it."""
    optimizer = make_optimizer(model.parameters())
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[torch.from_numpy(batch)]), y[torch.from_numpy(batch)]).backward()
        optimizer.step()
    return Layout.of(model).vector(model)
