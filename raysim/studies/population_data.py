"""Data of a large population for `raysim bench population`: every client's own samples, made from the seed as they are written.

images   like FEMNIST: grey 28 x 28, 62 classes, every client with a shade of its own
tokens   texts of WORDS words of two bytes, four topics, most words from those of the topic

Both take 784 bytes a sample on disk. What is learned from them does not matter: classes can be told apart.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim import rng
from raysim.data.shard_index import INDEX, read_index
from raysim.data.shard_writer import write_shards

if TYPE_CHECKING:
    from torch import nn

Samples = tuple[np.ndarray, np.ndarray]
"""Inputs [n, ...] and labels [n]."""

BLOCK = 512
"""Clients made at a time."""
SHARED_SAMPLES = 2000
"""Of a training set that all clients draw from, in memory."""
TEST_SAMPLES = 400
CHARACTERS, TOPICS, VOCABULARY, WORDS = 62, 4, 4096, 392


def images(draw: np.random.Generator, clients: int, samples: int) -> Samples:
    """Of `clients`, `samples` each (n = clients * samples): [n, 1, 28, 28] uint8, and their characters [n]."""
    grid = rng.generator(0, "population", "characters").integers(0, 128, (CHARACTERS, 7, 7), np.uint8)
    characters = grid.repeat(4, axis=1).repeat(4, axis=2)
    labels = draw.integers(0, CHARACTERS, clients * samples)
    found = characters[labels]
    found += np.frombuffer(draw.bytes(found.size), np.uint8).reshape(found.shape) & 63
    found += draw.integers(0, 64, clients, np.uint8).repeat(samples)[:, None, None]
    return found[:, None], labels


def tokens(draw: np.random.Generator, clients: int, samples: int) -> Samples:
    """Of `clients`, `samples` each (n = clients * samples): [n, WORDS] uint16, and their topics [n]."""
    labels = draw.integers(0, TOPICS, clients * samples)
    words = np.frombuffer(draw.bytes(2 * len(labels) * WORDS), np.uint16).reshape(-1, WORDS)
    own = words & 255 | labels.astype(np.uint16)[:, None] << 8  # the topic's 256 words
    return np.where(words & 0x8000, own, words & VOCABULARY - 1), labels


def token_net(num_classes: int) -> nn.Module:
    """The mean of the words' embeddings, and a linear layer."""
    from torch import nn

    return nn.Sequential(nn.EmbeddingBag(VOCABULARY, 8), nn.Linear(8, num_classes))


@dataclass(frozen=True)
class Kind:
    """A kind of samples. groups: of the configuration, beside the data; model: in place of one that it names."""

    make: Callable[[np.random.Generator, int, int], Samples]
    classes: int
    groups: Mapping[str, Any]
    model: Callable[..., nn.Module] | None = None


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "images": Kind(images, CHARACTERS, {"model": {"name": "digits_cnn", "width": 0.5}}),
        "tokens": Kind(tokens, TOPICS, {}, token_net),
    }
)


def shared(kind: str) -> tuple[Samples, Samples]:
    """A small training set in memory for all clients, and a test set."""
    make, counts = KINDS[kind].make, {"shared": SHARED_SAMPLES, "test": TEST_SAMPLES}
    train, test = (make(rng.generator(0, "population", part), count, 1) for part, count in counts.items())
    return train, test


def written(kind: str, clients: int, samples: int, folder: Path) -> None:
    """Write `samples` of its own for each of `clients`, as shards in `folder`; shards that are there already are kept."""

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for first in range(0, clients, BLOCK):
            many = min(BLOCK, clients - first)
            draw = rng.generator(0, "population", kind, first)
            yield (*KINDS[kind].make(draw, many, samples), np.full(many, samples))

    if not (folder / INDEX).exists():
        write_shards(folder, blocks(), shared(kind)[1], classes=KINDS[kind].classes)


def let_go_of(folder: Path) -> int:
    """Have the system forget what it remembers of the shards, so that they are read from the disk; their bytes."""
    files = read_index(folder).files
    for part in files:
        with (folder / part.file).open("rb") as file:
            os.fdatasync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return sum(part.bytes for part in files)
