"""Data sets that need no files: generated images, and scikit-learn's bundled digits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import doc

from raysim import rng
from raysim.data.dataset import Dataset, FederatedData
from raysim.data.selection import Selection
from raysim.errors import ConfigError
from raysim.options import NotNegative, PositiveInt

GRID = 4
"""A class prototype is a random grid of at most GRID x GRID cells a channel: coarse enough to survive pooling."""


def synthetic(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    shape: Annotated[Sequence[PositiveInt], doc("Channels, height, width of an image.")] = (1, 28, 28),
    num_classes: Annotated[PositiveInt, doc("Classes, as many as images of that shape can tell apart.")] = 10,
    train_size: Annotated[PositiveInt, doc("Training samples.")] = 2000,
    test_size: Annotated[PositiveInt, doc("Test samples.")] = 400,
    noise: Annotated[NotNegative, doc("Most standard deviation of the noise, in units of white.")] = 0.2,
    num_owners: Annotated[
        PositiveInt | None, doc("Owners of the training samples, at most as many; null: nobody owns them.")
    ] = None,
) -> FederatedData:
    """Separable generated images of any shape (C, H, W), class count and size; no files needed.

    Each class has a prototype of random grey cells in [0, 1]; an image is its class's prototype plus Gaussian
    noise, clipped to [0, 1] and stored as uint8. The noise's standard deviation is the smaller of `noise` and a
    tenth of the least distance between two prototypes, so that the nearest prototype is the right class up to
    five standard deviations. Classes are equally frequent. `num_owners` deals the training samples evenly to
    that many owners, for the natural partition. `root` and `download` are not used.
    """
    if len(shape) != 3:
        raise ConfigError("shape", "must be (channels, height, width)", tuple(shape))
    if num_owners is not None and num_owners > train_size:
        raise ConfigError("num_owners", "must be at most train_size", num_owners, train_size)

    prototypes = _prototypes(tuple(shape), num_classes, seed)
    deviation = min(noise, _least_distance(prototypes) / 10)
    if deviation < min(noise, 2 / 255):
        raise ConfigError(
            "num_classes", f"images of shape {tuple(shape)} hold fewer separable classes", num_classes
        )
    owners = None
    if num_owners is not None:
        owners = rng.generator(seed, "synthetic", "owners").permutation(train_size) % num_owners
    train = _draw(prototypes, train_size, deviation, rng.generator(seed, "synthetic", "train"))
    test = _draw(prototypes, test_size, deviation, rng.generator(seed, "synthetic", "test"))
    selection = Selection(limit, seed)
    kept = selection.train(train_size)
    return FederatedData(
        "synthetic",
        train.select(kept),
        test.select(selection.test(test_size)),
        tuple(map(str, range(num_classes))),
        owners=None if owners is None else owners[kept],
    )


def digits(root: Path, *, download: bool, seed: int, limit: int | None = None) -> FederatedData:
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8, 10 classes, bundled with it; seeded 80/20 split.

    Pixels 0..16 are stored as float32 in [0, 1]. `root` and `download` are not used.
    """
    images, labels = _bundled_digits()
    selection = Selection(limit, seed, test_share=0.2)
    train, test = selection.hold_out(len(labels))
    train, test = train[selection.train(len(train))], test[selection.test(len(test))]
    return FederatedData(
        "digits",
        Dataset(images[train], labels[train]),
        Dataset(images[test], labels[test]),
        tuple(map(str, range(10))),
    )


@lru_cache(maxsize=1)
def _bundled_digits() -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, as scikit-learn's `load_digits` reads them; importing that takes longer than a small run."""
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    rows = np.loadtxt(Path(package.origin).parent / "datasets/data/digits.csv.gz", np.float32, delimiter=",")
    return rows[:, :-1].reshape(-1, 1, 8, 8) / 16, rows[:, -1].astype(np.int64)


def _prototypes(shape: tuple[int, ...], num_classes: int, seed: int) -> np.ndarray:
    """[num_classes, C, H, W] float32 in [0, 1]."""
    channels, height, width = shape
    rows, columns = min(GRID, height), min(GRID, width)
    cells = rng.generator(seed, "synthetic", "prototypes").random(
        (num_classes, channels, rows, columns), dtype=np.float32
    )
    return cells[:, :, np.arange(height) * rows // height][..., np.arange(width) * columns // width]


def _least_distance(prototypes: np.ndarray) -> float:
    """The least Euclidean distance between two prototypes; infinite for one class."""
    flat = prototypes.reshape(len(prototypes), -1).astype(np.float64)
    squares = (flat**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * flat @ flat.T
    np.fill_diagonal(distances, np.inf)
    return float(np.sqrt(max(0.0, distances.min())))


def _draw(prototypes: np.ndarray, count: int, deviation: float, generator: np.random.Generator) -> Dataset:
    labels = generator.permutation(np.arange(count, dtype=np.int64) % len(prototypes))
    images = np.empty((count, *prototypes.shape[1:]), np.uint8)
    for start in range(0, count, 1024):  # bounds the float copy
        block = prototypes[labels[start : start + 1024]]
        block += deviation * generator.standard_normal(block.shape, dtype=np.float32)
        images[start : start + 1024] = np.rint(255 * np.clip(block, 0, 1))
    return Dataset(images, labels)
