"""Which client holds which training samples, in two flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from raysim.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """Every client's sample indices, one after the other (compressed rows), so a million clients cost two arrays.

    indices: [total] int32 (int64 for data sets of 2**31 samples and more), ascending inside each client;
    offsets: [num_clients + 1] int64, client i holds indices[offsets[i] : offsets[i + 1]]. Samples may be held by
    nobody, and with `iid`'s samples_per_client by several clients, but by no client twice.
    """

    indices: np.ndarray
    offsets: np.ndarray

    @property
    def num_clients(self) -> int:
        """The number of clients."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each client, [num_clients] int64."""
        return np.diff(self.offsets)

    def of(self, client: int) -> np.ndarray:
        """The sample indices [n] of one client (a view)."""
        if not 0 <= client < self.num_clients:
            raise IndexError(f"client {client} of {self.num_clients}")
        return self.indices[self.offsets[client] : self.offsets[client + 1]]


@dataclass(frozen=True)
class AllBut:
    """Sample indices in order, but those left out [m], ascending: `[a:b]` are the a-th to the b-th that are left.

    In place of an array of as many indices as there are samples, for slices with both ends and for places [n].

    >>> AllBut(np.array([1, 2]))[0:3]
    array([0, 3, 4])
    """

    left_out: np.ndarray
    nbytes = 0

    def __getitem__(self, places: slice | np.ndarray) -> np.ndarray:
        found = np.arange(places.start, places.stop) if isinstance(places, slice) else places
        below = self.left_out - np.arange(len(self.left_out))
        return found + np.searchsorted(below, found, "right")


@dataclass(frozen=True)
class OwnerRuns:
    """Owners of samples that lie one owner after the other: owner i has offsets[i] : offsets[i + 1].

    In place of an array [n] of every sample's owner, which rows (a slice, or indices) give. offsets: [owners + 1] int64.
    """

    offsets: np.ndarray
    dtype = np.dtype(np.int64)

    @property
    def shape(self) -> tuple[int]:
        """(n,), as of the array."""
        return (int(self.offsets[-1]),)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(*which.indices(*self.shape)) if isinstance(which, slice) else which
        return np.searchsorted(self.offsets[1:], rows, "right")

    def without(self, left_out: np.ndarray) -> Partition:
        """The partition with a client for every owner that has samples, but for those left out [m], ascending."""
        offsets = self.offsets - np.searchsorted(left_out, self.offsets)
        held = np.concatenate([[True], offsets[1:] > offsets[:-1]])
        return Partition(cast(np.ndarray, AllBut(left_out)), offsets if held.all() else offsets[held])


NOBODY = -1
"""Marks, in the argument of `from_owners`, a sample that no client holds."""


def from_owners(owner: np.ndarray, num_clients: int) -> Partition:
    """The disjoint partition in which client owner[s] (or NOBODY) holds sample s.

    >>> from_owners(np.array([1, 0, NOBODY, 1]), 2)
    Partition(indices=array([1, 0, 3], dtype=int32), offsets=array([0, 1, 3]))
    """
    held = np.flatnonzero(owner != NOBODY)
    order = np.argsort(owner[held], kind="stable")
    sizes = np.bincount(owner[held], minlength=num_clients)
    return Partition(held[order].astype(index_type(len(owner))), offsets_of(sizes))


def offsets_of(sizes: np.ndarray) -> np.ndarray:
    """Offsets [n + 1] int64 from sizes [n]."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def index_type(num_samples: int) -> type[np.signedinteger]:
    """The smallest index type a data set needs."""
    return np.int32 if num_samples <= np.iinfo(np.int32).max else np.int64


def check_demand(num_clients: int, num_samples: int, per_client: int = 1) -> None:
    """Raise ConfigError unless there is a client, and `per_client` samples for each."""
    most = num_samples // max(1, per_client)
    if num_clients < 1 or num_clients > most:
        rule = f"must lie in 1..{most}, for {num_samples} samples and at least {per_client} for each client"
        raise ConfigError("num_clients", rule, num_clients, max(1, min(num_clients, most)))


def check_served(partition: Partition, advice: str) -> Partition:
    """`partition`, unless a client holds nothing: then ConfigError."""
    if (empty := np.flatnonzero(partition.sizes == 0)).size:
        rule = f"leaves {len(empty)} clients without samples (client {empty[0]} first): {advice}"
        raise ConfigError("num_clients", rule, partition.num_clients)
    return partition
