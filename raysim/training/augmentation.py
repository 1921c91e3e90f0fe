"""Random crops and mirrored images: what `training.augmentation` does to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from raysim.errors import ConfigError

PADDING = 4
"""Pixels by which an image is padded on each side, reflected, before it is cropped to its size again."""


def crop_flip(images: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """Each of the images [n, C, H, W] moved by up to PADDING pixels either way and mirrored with probability 1/2."""
    count, _, height, width = images.shape
    down, right = generator.integers(0, 2 * PADDING + 1, (2, count))
    mirrored = generator.random(count) < 0.5
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    padded = functional.pad(images, (PADDING,) * 4, mode="reflect")
    which, rows, columns = (
        torch.from_numpy(np.ascontiguousarray(index)).to(images.device)
        for index in (np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    return padded[which, :, rows, columns].permute(0, 3, 1, 2)


def check_augmentable(input_shape: Sequence[int]) -> None:
    """ConfigError unless inputs are images of more than PADDING pixels a side."""
    if len(input_shape) != 3 or min(input_shape[1:]) <= PADDING:
        rule = f"must be none for inputs of shape {tuple(input_shape)}: crops are of images above {PADDING} x {PADDING} pixels"
        raise ConfigError("training.augmentation", rule, "crop_flip", "none")
