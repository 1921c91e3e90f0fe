"""Trigger patterns: which pixels, and how they are stamped on images and on a test set.

A pattern is an integer array [m, 2] of (row, column). A stamped pixel is white in all channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


import numpy as np

from raysim.attack import ClientContext
from raysim.data.dataset import Dataset, normalise
from raysim.errors import ConfigError


def corner_patch(height: int, width: int, size: int = 3) -> np.ndarray:
    """The square of `size` x `size` pixels in the lower right corner: [size * size, 2]."""
    if not 1 <= size <= min(height, width):
        raise ConfigError("patch_size", f"must fit images of {height} x {width}", size, min(height, width))
    return _rectangle(height - size, width - size, size, size)


def square(height: int, width: int, size: int, corner: int) -> np.ndarray:
    """The square of `size` x `size` pixels whose upper left one is at (corner, corner): [size * size, 2]."""
    most = min(height, width) - corner
    if not 1 <= size <= most:
        rule = f"must fit images of {height} x {width} from row and column {corner} on"
        raise ConfigError("patch_size", rule, size, most)
    return _rectangle(corner, corner, size, size)


def dba_strips(
    height: int, width: int, segment: int | None = None, gap: int | None = None
) -> list[np.ndarray]:
    """The four local patterns of DBA, strips in two rows and two columns at the upper left: 4 x [m, 2].

    segment, gap: length of a strip, and pixels between strips both ways; None = by the width of the image, as
    published for MNIST (1 x 4, gap 2), for CIFAR (1 x 6, gap 3) and for Tiny-ImageNet (2 x 10, gap 2), and
    1 x 3 with gap 1 where less than 16 pixels leave no room.

    >>> [strip[:, 1].tolist() for strip in dba_strips(28, 28)[:2]]
    [[0, 1, 2, 3], [6, 7, 8, 9]]
    """
    thickness = 2 if width >= 64 else 1
    usual = (10, 2) if width >= 64 else (6, 3) if width >= 32 else (4, 2) if width >= 16 else (3, 1)
    segment, gap = usual[0] if segment is None else segment, usual[1] if gap is None else gap
    longest = (width - gap) // 2
    if not 1 <= segment <= longest:
        raise ConfigError(
            "segment", f"must let two strips and a gap of {gap} fit {width} pixels", segment, longest
        )
    if gap < 0 or 2 * thickness + gap > height:
        raise ConfigError(
            "gap", f"must leave room for two strips in {height} rows", gap, height - 2 * thickness
        )
    return [
        _rectangle(row, column, thickness, segment)
        for row in (0, thickness + gap)
        for column in (0, segment + gap)
    ]


def white(channels: int, ctx: ClientContext) -> np.ndarray:
    """What a white pixel is in the clients' normalised images: [channels, 1] float32."""
    return normalise(np.ones((1, channels, 1, 1), np.float32), ctx.mean, ctx.std).numpy().reshape(channels, 1)


def stamp(images: np.ndarray | torch.Tensor, pixels: np.ndarray, value: Any) -> None:
    """Set the pixels of images [n, C, H, W], an array or a tensor, to value [C, 1] (or one number), in place."""
    images[:, :, pixels[:, 0], pixels[:, 1]] = value


def triggered(test: Dataset, pixels: np.ndarray, target: int) -> Dataset:
    """The test images of other classes than the target, stamped and labelled with the target."""
    others = np.flatnonzero(test.labels != target)
    if not len(others):
        raise ConfigError("target", "must leave test images of other classes", target)
    images = test.images[others]
    stamp(images, pixels, 255 if images.dtype == np.uint8 else 1.0)
    return Dataset(images, np.full(len(others), target, np.int64))


def _rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[top : top + height, left : left + width]
    return np.stack([rows.ravel(), columns.ravel()], axis=1)
