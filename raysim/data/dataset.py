"""The two containers every loader fills, and the step from stored pixels to model input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from annotated_types import doc

from raysim.data.assignment import OwnerRuns
from raysim.errors import ConfigError, DataError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


EXPECTED_BYTES = 2**26
"""Of samples that a disk is asked to read ahead of their use: many clients that hold little, or few that hold much."""


@dataclass(frozen=True)
class Dataset:
    """Inputs with their labels.

    images: pictures [n, C, H, W], uint8 (0..255) or float32 (already scaled to [0, 1]); or a task's other inputs:
    features [n, ...] float32, or tokens [n, ...] int64, which reach the model as they are. labels: [n] int64.
    Raises DataError for anything else.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        kind, ndim = self.images.dtype, self.images.ndim
        if not (ndim >= 2 and kind in (np.float32, np.int64)) and not (ndim == 4 and kind == np.uint8):
            raise DataError(
                "inputs must be images [n, C, H, W] uint8 or float32, features [n, ...] float32 or tokens [n, ...]"
                f" int64, not {kind} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int64:
            raise DataError(
                f"labels must be int64, one for each of the {len(self.images)} images,"
                f" not {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def at_hand(self) -> Dataset:
        """Itself where all of it can be read; DataError on a machine that lacks shards of it (see raysim.data.shards)."""
        if require := getattr(self.images, "require", None):
            require()
        return self

    def expect(self, parts: Sequence[np.ndarray]) -> None:
        """Have the disk begin to read samples that are about to be asked for: parts, each the indices [m] of samples that follow
        one another, in that order, up to EXPECTED_BYTES. What is in memory is there already.
        """
        sample = math.prod(self.images.shape[1:]) * self.images.dtype.itemsize
        ends = np.cumsum([len(part) * sample for part in parts])
        for column in (self.images, self.labels):
            if begin := getattr(column, "expect", None):
                for part in parts[: int(np.searchsorted(ends, EXPECTED_BYTES, "right"))]:
                    begin(part)

    def select(self, indices: np.ndarray) -> Dataset:
        """The samples at `indices` [m], in that order, as a copy."""
        return Dataset(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class FederatedData:
    """A classification task: training samples to be dealt to clients, test samples for the server.

    mean, std: per channel (or one value for all), applied after scaling to [0, 1]; (0,), (1,) = none.
    attack_std: what attackers' and test images are divided by instead, where published code does so; None = std.
    owners: [n_train] int64, the client each training sample belongs to, for the natural partition; OwnerRuns where the
    samples are sorted by it.
    notes: what the loader decided and its user must know, one sentence each. digest: what identifies all samples, where
    that is known without reading them.
    Raises DataError if sets are empty, shapes differ or a label lies outside the classes.
    """

    name: str
    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    owners: np.ndarray | OwnerRuns | None = None
    attack_std: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise DataError(
                f"{self.name}: training images are {self.train.images.shape[1:]},"
                f" test images {self.test.images.shape[1:]}"
            )
        for part, data in (("training", self.train), ("test", self.test)):
            if len(data) == 0:
                raise DataError(f"{self.name}: the {part} set is empty")
            low, high = int(data.labels.min()), int(data.labels.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(
                    f"{self.name}: {part} labels span {low}..{high}, but there are {self.num_classes} classes"
                )
        for key, values in (
            ("mean", self.mean),
            ("std", self.std),
            ("attack_std", self.attack_std or self.std),
        ):
            if len(values) not in (1, self.input_shape[0]):
                raise DataError(
                    f"{self.name}: {key} has {len(values)} values for {self.input_shape[0]} channels"
                )
        if self.owners is not None and (
            self.owners.shape != self.train.labels.shape or self.owners.dtype != np.int64
        ):
            raise DataError(
                f"{self.name}: owners must be int64, one for each of the {len(self.train)} training samples,"
                f" not {self.owners.dtype} {self.owners.shape}"
            )

    @property
    def num_classes(self) -> int:
        """The number of classes, including any without a sample."""
        return len(self.classes)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of every image, or the shape of another input: (features,), (tokens,)."""
        return self.train.images.shape[1:]


def expect(
    data: FederatedData, shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> FederatedData:
    """`data`, once its images and classes are what its name promises; DataError otherwise."""
    if shape is not None and data.input_shape != shape:
        raise DataError(f"{data.name}: images are {data.input_shape}, not {shape}")
    if num_classes is not None and data.num_classes != num_classes:
        raise DataError(f"{data.name}: {data.num_classes} classes, not {num_classes}")
    return data


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Model input from stored inputs: (scaled to [0, 1] - mean) / std, per channel.

    images: [n, C, H, W], or features [n, f, ...] whose f stand for the channels; uint8 is divided by 255 first,
    float32 is taken as it is. Returns a new float32 tensor of that shape that shares no memory with `images`, so
    read-only arrays are fine. Tokens, int64, are copied as they are: ConfigError for another mean than 0, std than 1.

    >>> normalise(np.full((1, 1, 1, 2), 51, np.uint8), (0.1,), (0.5,))
    tensor([[[[0.2000, 0.2000]]]])
    """
    import torch

    channels = images.shape[1]
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            raise ConfigError(
                key, f"must have 1 value or one for each of the {channels} channels", tuple(values)
            )
    if min(std) <= 0:
        raise ConfigError("std", "must be positive", tuple(std))
    if images.dtype == np.int64:
        for key, values, neutral in (("mean", mean, 0), ("std", std, 1)):
            if any(value != neutral for value in values):
                raise ConfigError(key, f"must be {neutral} for tokens, which are not scaled", tuple(values))
        return torch.from_numpy(np.array(images))
    result = torch.empty(images.shape, dtype=torch.float32)
    np.copyto(result.numpy(), images)
    if images.dtype == np.uint8:
        result.div_(255)
    per_channel = (-1, *(1 for _ in images.shape[2:]))
    if any(value != 0 for value in mean):
        result.sub_(torch.tensor(tuple(mean), dtype=torch.float32).view(per_channel))
    if any(value != 1 for value in std):
        result.div_(torch.tensor(tuple(std), dtype=torch.float32).view(per_channel))
    return result


Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""

Normalisation = Annotated[
    Literal["none", "measured", "imagenet"],
    doc(
        "Mean and deviation that inputs are normalised by: 0 and 1, those of the training images, or ImageNet's."
    ),
]
"""The option `normalisation` of data sets."""


def statistics(normalisation: Normalisation, train: np.ndarray) -> Statistics:
    """The mean and std of FederatedData that a loader's option `normalisation` names.

    none: 0 and 1; measured: of the training images `train` [n, C, H, W] as loaded, never of test images;
    imagenet: what networks pretrained on ImageNet expect.
    """
    if normalisation == "none":
        return (0.0,), (1.0,)
    if normalisation == "measured":
        return channel_statistics(train)
    if normalisation == "imagenet":
        return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    raise unknown_name("normalisation", normalisation, ("none", "measured", "imagenet"))


def channel_statistics(images: np.ndarray) -> Statistics:
    """Mean and population standard deviation of each channel of `images` [n, C, H, W], scaled to [0, 1].

    A channel without variation gets deviation 1, so that normalising never divides by zero. For uint8 the
    moments come from exact integer histograms.
    """
    means, deviations = [], []
    for channel in range(images.shape[1]):
        if images.dtype == np.uint8:
            counts = np.zeros(256)
            for block in range(0, len(images), 4096):
                counts += np.bincount(images[block : block + 4096, channel].ravel(), minlength=256)
            values = np.arange(256) / 255
            mean = float(counts @ values / counts.sum())
            variance = float(counts @ (values - mean) ** 2 / counts.sum())
        else:
            mean = float(images[:, channel].mean(dtype=np.float64))
            variance = float(images[:, channel].var(dtype=np.float64))
        means.append(mean)
        deviations.append(variance**0.5 if variance > 0 else 1.0)
    return tuple(means), tuple(deviations)
