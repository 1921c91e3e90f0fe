"""A run looked at before it can take place: on random images if its data set is not here, on few samples for its seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysim.backends.capacity import Capacity
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import Experiment
from raysim.errors import ConfigError, DataError

MOST_PIXELS = 2 * 10**8
"""Numbers in the random training images, at most: larger data sets have fewer of them."""

BATCHES = 2
"""Batches of a client that is timed."""


@dataclass(frozen=True)
class Size:
    """What a data set holds."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int


SIZES: Mapping[str, Size] = {
    "mnist": Size((1, 28, 28), 10, 60_000, 10_000),
    "fashion_mnist": Size((1, 28, 28), 10, 60_000, 10_000),
    "emnist": Size((1, 28, 28), 10, 240_000, 40_000),
    "femnist": Size((1, 28, 28), 62, 40_000, 4_000),
    "cifar10": Size((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Size((3, 32, 32), 100, 50_000, 10_000),
    "svhn": Size((3, 32, 32), 10, 73_257, 26_032),
    "gtsrb": Size((3, 128, 128), 43, 26_640, 12_630),
    "tiny_imagenet": Size((3, 64, 64), 200, 100_000, 10_000),
    "celeba": Size((3, 128, 128), 2, 162_770, 19_962),
    "kather": Size((3, 128, 128), 8, 4_000, 1_000),
}
"""Data sets that have to be fetched; femnist: about what LEAF's 192 writers make (its full set: 3,550)."""


@dataclass(frozen=True)
class Outlook:
    """An experiment to be estimated. lighter: the same with few batches a client, or None if it has few already."""

    experiment: Experiment
    lighter: Experiment | None
    remarks: tuple[str, ...] = ()


def outlook(config: ExperimentConfig, capacity: Capacity) -> Outlook:
    """The experiment, on random images and with everybody honest where files of its data or its attacks are missing.

    Raises DataError for data whose size is not known here, ConfigError for a configuration that cannot work.
    """
    remarks: tuple[str, ...] = ()
    try:
        experiment = compose(config, capacity)
    except DataError:
        size = SIZES.get(config.data.name)
        if size is None:
            raise
        count = min(size.train, MOST_PIXELS // _pixels(size), config.data.limit or size.train)
        config = on_random_images(config, size, count)
        experiment = compose(config, capacity)
        remarks = (
            f"the data set or files of an attack are not here: planned on {count:,} random images"
            f" ({size.train:,} in the published set), everybody honest",
        )
    return Outlook(experiment, _lighter(config, experiment, capacity), remarks)


def on_random_images(config: ExperimentConfig, size: Size, count: int) -> ExperimentConfig:
    """The same run on as many random images of that size, all clients honest."""
    values: dict[str, Any] = config.to_mapping()
    partition = values["data"]["partition"]
    if partition["name"] == "natural":
        partition = {"name": "iid"}
    values["data"] = {
        "name": "synthetic", "shape": list(size.shape), "num_classes": size.classes,
        "train_size": count, "test_size": max(1, size.test * count // size.train), "partition": partition,
    }  # fmt: skip
    total = config.population.total
    values["population"] |= {"clients": total, "malicious": 0, "mode": "replace", "placement": "last"}
    values["attack"] = []
    return ExperimentConfig.from_mapping(values)


def _lighter(config: ExperimentConfig, experiment: Experiment, capacity: Capacity) -> Experiment | None:
    """The experiment with one local epoch of BATCHES batches a client, where that is less; None if it cannot be dealt."""
    wanted = BATCHES * config.training.batch_size * config.population.total
    held = int(experiment.sizes.sum())
    if experiment.setup.synthetic is not None or (wanted >= held and config.training.epochs == 1):
        return None
    values: dict[str, Any] = config.to_mapping()
    values["training"]["epochs"] = 1
    needed = wanted + config.server_data.samples
    if wanted < held and config.data.name == "synthetic":
        values["data"]["train_size"] = needed
        values["data"]["test_size"] = min(sum(experiment.test_sizes), config.evaluation.batch_size)
    elif wanted < held:
        values["data"]["limit"] = needed
    try:
        return compose(ExperimentConfig.from_mapping(values), capacity)
    except ConfigError:
        return None


def _pixels(size: Size) -> int:
    channels, height, width = size.shape
    return channels * height * width
