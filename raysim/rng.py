"""Generators keyed by their purpose, never by the process that uses them.

Every random draw of a run comes from `generator(seed, *key)`, where the key names the round, the client
and the purpose. The same key gives the same stream on any actor, node or backend, and two different keys
give independent streams. Nothing here touches, or depends on, a global generator.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

Key = int | str


def key_entropy(seed: int, *key: Key) -> int:
    """A 128-bit integer for (seed, key), the same on every machine and in every Python process."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in (int(seed), *map(_plain, key)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, *key: Key) -> np.random.Generator:
    """A numpy generator for (seed, key).

    >>> int(generator(1, 0, 7, "batches").integers(100)) == int(generator(1, 0, 7, "batches").integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(key_entropy(seed, *key)))


def torch_seed(seed: int, *key: Key) -> int:
    """A 63-bit seed for a `torch.Generator`."""
    return key_entropy(seed, *key) & (2**63 - 1)


def torch_generator(seed: int, *key: Key) -> torch.Generator:
    """A torch generator on the CPU for (seed, key)."""
    import torch

    return torch.Generator().manual_seed(torch_seed(seed, *key))


@contextlib.contextmanager
def torch_randomness(seed: int, *key: Key, device: str = "cpu") -> Iterator[None]:
    """Seed torch's default generator inside the block and put it back afterwards.

    Dropout and parameter initialisation can only draw from the default generator; this is the one way
    the project lets them.
    """
    import torch

    devices = [torch.device(device)] if device.startswith("cuda") else []
    number = torch_seed(seed, *key)
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(number)
        if devices:
            torch.cuda.manual_seed(number)
        yield


def _plain(part: Key) -> Key:
    return part if isinstance(part, str) else int(part)
