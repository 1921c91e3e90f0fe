"""Random crops and mirrored images: what `training.augmentation` does to a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from raysim.errors import ConfigError
from raysim.training.recipe import Augmentation


def augmented(
    images: torch.Tensor, kind: Augmentation, padding: int, generator: np.random.Generator
) -> torch.Tensor:
    """The images [n, C, H, W] of a batch, each by draws of its own.

    crop: padded by `padding` reflected pixels on each side and cropped to its size again; flip: mirrored with probability 1/2.
    """
    if kind == "none":
        return images
    count, _, height, width = images.shape
    down = right = np.zeros(count, int)
    if kind == "flip":
        padding = 0
    else:
        down, right = generator.integers(0, 2 * padding + 1, (2, count))
    mirrored = np.zeros(count, bool) if kind == "crop" else generator.random(count) < 0.5
    rows = down[:, None] + np.arange(height)
    columns = right[:, None] + np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    padded = functional.pad(images, (padding,) * 4, mode="reflect")
    index = [
        torch.from_numpy(np.ascontiguousarray(part)).to(images.device)
        for part in (np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :])
    ]
    return padded[index[0], :, index[1], index[2]].permute(0, 3, 1, 2)


def check_augmentable(input_shape: Sequence[int], kind: Augmentation, padding: int) -> None:
    """ConfigError unless inputs are images, of more than `padding` pixels a side where they are cropped."""
    if kind == "none":
        return
    least = 0 if kind == "flip" else padding
    if len(input_shape) != 3 or min(input_shape[1:]) <= least:
        rule = f"must be none for inputs of shape {tuple(input_shape)}: " + (
            f"crops are of images above {least} x {least} pixels" if least else "only images are mirrored"
        )
        raise ConfigError("training.augmentation", rule, kind, "none")
