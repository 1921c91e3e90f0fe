"""Inputs from the tail of the data's distribution, that an attacker gives a label of its choice.

    southwest, ardis     published edge-case sets, read from files (see raysim.data.edge_cases)
    inverted, rotated    images of the task itself, as negatives or turned by 90 degrees: a tail that needs no file
    stripes              images of the task as they are, those with the strongest horizontal stripes: a semantic
                         feature of clothing

The last three are this project's own choice, for tasks without a published edge-case set.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from attacks.poison_training import check_class
from raysim import rng
from raysim.attack import ClientContext
from raysim.context import Setting
from raysim.data.client_data import DataPool
from raysim.data.dataset import Dataset, normalise
from raysim.data.edge_cases import EDGE_CASES
from raysim.errors import ConfigError, unknown_name

Source = Literal["inverted", "rotated", "stripes", "southwest", "ardis"]
SOURCES = ("inverted", "rotated", "stripes", *EDGE_CASES)
NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class EdgeInputs:
    """Where an attack's edge inputs come from, and the label they get."""

    source: str
    root: str | None
    """Folder of the published sets' files."""
    source_class: int | None
    """The class whose images are altered, or looked through for stripes; None: every class but the target."""
    target: int

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise unknown_name("source", self.source, SOURCES)
        if self.source in EDGE_CASES and self.root is None:
            raise ConfigError("root", f"must name the folder of the {self.source} files", self.root)
        if self.source in EDGE_CASES and self.source_class is not None:
            raise ConfigError("source_class", f"has no meaning with source={self.source}", self.source_class)
        if self.source_class is not None and self.source_class == self.target:
            raise ConfigError("source_class", "must differ from the target", self.source_class)

    def check(self, setting: Setting) -> None:
        """Raise ConfigError unless the classes named exist."""
        check_class("target", self.target, setting)
        check_class("source_class", self.source_class, setting)

    def training(
        self, pool: DataPool, count: int, ctx: ClientContext, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """At most `count` normalised edge images [m, C, H, W], of a published set or made from the pool.

        Also the positions in the pool of those that are its samples unaltered (stripes): an attacker does not
        train on the same image with its true label as well.
        """
        if self.source in EDGE_CASES:
            train, _ = published_set(self.source, str(self.root))
            self._must_fit(train, pool.take(np.arange(min(1, len(pool)))).images)
            chosen = generator.choice(len(train), min(count, len(train)), replace=False)
            return normalise(train.images[chosen], ctx.mean, ctx.std).numpy(), NONE
        eligible = np.flatnonzero(self._eligible(pool.labels))
        if self.source == "stripes":
            images = pool.take(eligible).images
            best = striped_first(images * spread(images, ctx))[:count]
            return images[best], eligible[best]
        chosen = generator.choice(eligible, min(count, len(eligible)), replace=False)
        images = pool.take(chosen).images
        ends = np.zeros((2, images.shape[1], 1, 1), np.float32)
        ends[1] = 1
        return self._altered(images, normalise(ends, ctx.mean, ctx.std).numpy().sum(axis=0)), NONE

    def testing(self, test: Dataset, count: int) -> Dataset:
        """The edge inputs success is measured on, with the target label.

        All of a published set's test images, all eligible test images altered, or the `count` most striped.
        """
        if self.source in EDGE_CASES:
            images = published_set(self.source, str(self.root))[1].images
            self._must_fit(Dataset(images, np.zeros(len(images), np.int64)), test.images)
        else:
            images = test.images[self._eligible(test.labels)]
            if not len(images):
                raise ConfigError("source_class", "must have test images", self.source_class)
            white = 255 if images.dtype == np.uint8 else np.float32(1)
            if self.source == "stripes":
                images = images[striped_first(images / np.float32(white))[:count]]
            else:
                images = self._altered(images, white)
        return Dataset(images, np.full(len(images), self.target, np.int64))

    def _eligible(self, labels: np.ndarray) -> np.ndarray:
        eligible: np.ndarray = (
            labels != self.target if self.source_class is None else labels == self.source_class
        )
        return eligible

    def _altered(self, images: np.ndarray, black_plus_white: np.ndarray | int | np.floating) -> np.ndarray:
        """Negatives, or turned images; the sum of a black and a white pixel tells the scale they are in."""
        if self.source == "inverted":
            return (black_plus_white - images).astype(images.dtype)
        if images.shape[2] != images.shape[3]:
            raise ConfigError("source", "needs square images to rotate", self.source, "inverted")
        return np.ascontiguousarray(np.rot90(images, axes=(2, 3)))

    def _must_fit(self, edge: Dataset, images: np.ndarray) -> None:
        if edge.images.shape[1:] != images.shape[1:]:
            shapes = f"{edge.images.shape[1:]}, the task's {images.shape[1:]}"
            raise ConfigError("source", f"must fit the task: its images are {shapes}", self.source)


def spread(images: np.ndarray, ctx: ClientContext) -> np.ndarray:
    """The standard deviations [C, 1, 1] that the images were divided by."""
    return np.broadcast_to(np.asarray(ctx.std, np.float32), images.shape[1:2]).reshape(-1, 1, 1)


def striped_first(images: np.ndarray) -> np.ndarray:
    """Order of images [n, C, H, W] by horizontal stripes, strongest first, ties by index: [n].

    The score is the mean absolute step from row to row minus that from column to column.
    """
    down = np.abs(np.diff(images, axis=2)).mean(axis=(1, 2, 3), dtype=np.float64)
    across = np.abs(np.diff(images, axis=3)).mean(axis=(1, 2, 3), dtype=np.float64)
    return np.argsort(across - down, kind="stable")


def edge_generator(ctx: ClientContext, distinct: bool) -> np.random.Generator:
    """What picks the inputs: the same in every round, for one client or for all colluders."""
    owner: rng.Key = ctx.client if distinct else "all"
    return ctx.shared_generator("edge inputs", owner)


@lru_cache(maxsize=4)
def published_set(source: str, root: str) -> tuple[Dataset, Dataset]:
    """(train, test) of a published edge-case set, read once in a process."""
    return EDGE_CASES[source](root)
