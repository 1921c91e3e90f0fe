"""How the training set is dealt to clients: the table of methods, and those that ignore labels.

Every method is a frozen dataclass with `split(labels, num_clients, rng, owners) -> Partition`, a pure function of
its arguments. Impossible demands raise ConfigError before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol

import numpy as np

from raysim.data.assignment import (
    NOBODY,
    OwnerRuns,
    Partition,
    check_demand,
    check_served,
    from_owners,
    index_type,
    offsets_of,
)
from raysim.data.label_skew import ClassesPerClient, DBADirichlet, Dirichlet, PhiGroups
from raysim.errors import ConfigError
from raysim.options import Declared, Positive, PositiveInt

__all__ = [
    "IID",
    "PARTITIONS",
    "ClassesPerClient",
    "DBADirichlet",
    "Dirichlet",
    "LogNormal",
    "Natural",
    "Partition",
    "Partitioner",
    "PhiGroups",
]


class Partitioner(Protocol):
    """What every method of `PARTITIONS` can do."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples with `labels` [n] int64, and `owners` [n] int64 where known, to the clients."""


@dataclass(frozen=True)
class IID(Declared):
    """Samples are dealt to clients at random, equally many to each, whatever their labels.

    samples_per_client = None: the permuted data set is cut into num_clients parts, of equal size up to one sample
    (remainder = spread: the first clients get one more) or of floor(n / num_clients) samples, the rest held by
    nobody (remainder = drop, as in the LayerCAM-AE code).

    samples_per_client = m: client after client draws m different samples from passes over the data. A pass is a
    fresh random order of all n samples, cut into floor(n / m) hands of m; its last n mod m samples are left out.
    So each client's samples are a uniform draw without replacement, clients of one pass are disjoint, and clients
    of different passes are independent: they overlap by chance. With num_clients * m <= n one pass is enough and
    all clients are disjoint; populations far larger than the data work as well.
    """

    samples_per_client: PositiveInt | None = None
    """Samples that each client draws; null: the data set is cut into as many parts as clients."""
    remainder: Literal["spread", "drop"] = "spread"
    """Samples that do not divide evenly: `spread` over the first clients, or held by nobody, `drop`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples_per_client is not None and self.remainder != "spread":
            raise ConfigError(
                "remainder", "must be left at 'spread' beside samples_per_client", self.remainder
            )

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal len(labels) samples to `num_clients` clients; `owners` is not used."""
        if self.samples_per_client is not None:
            return _hands(len(labels), num_clients, self.samples_per_client, rng)
        check_demand(num_clients, len(labels))
        size, more = divmod(len(labels), num_clients)
        sizes = np.full(num_clients, size)
        if self.remainder == "spread":
            sizes[:more] += 1
        return _dealt(len(labels), sizes, rng)


@dataclass(frozen=True)
class LogNormal(Declared):
    """Samples are dealt at random, whatever their labels, in numbers with a log-normal distribution: a few hold many.

    Client i gets one sample and a part of the others in proportion to exp(sigma z_i), z_i standard normal; what rounding
    down leaves goes to the largest remainders. All samples are dealt. It is the skew of devices' data that schedulers
    of clients are measured on (Pollen, arXiv 2306.17453).
    """

    sigma: Positive = 1.0
    """Standard deviation of the logarithms of the sizes."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal len(labels) samples to `num_clients` clients; `owners` is not used."""
        check_demand(num_clients, len(labels))
        drawn = self.sigma * rng.standard_normal(num_clients)
        parts = np.exp(drawn - drawn.max())  # the largest is 1, whatever sigma is
        wanted = parts / parts.sum() * (len(labels) - num_clients)
        sizes = 1 + wanted.astype(np.int64)
        left = len(labels) - sizes.sum()
        sizes[np.argsort(-(wanted % 1), kind="stable")[:left]] += 1
        return _dealt(len(labels), sizes, rng)


@dataclass(frozen=True)
class Natural(Declared):
    """Clients are the data set's own: FEMNIST's writers, CelebA's identities.

    subsets = False: client i is the i-th owner in ascending order; with fewer clients than owners the first ones
    take part, their number cannot exceed the owners'. subsets = True: all owners take part, dealt at random to
    the clients, equally many to each up to one (LayerCAM-AE's CelebA: a distinct subset of individuals a client).
    """

    subsets: bool = False
    """Whether all owners are dealt at random to the clients; false: client i is the i-th owner."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples of `owners` [n] to `num_clients` clients; `labels` only counts them."""
        if owners is None:
            raise ConfigError("partition", "needs a data set that knows each sample's owner", "natural")
        if owners.shape != labels.shape:
            raise ConfigError("owners", f"must be one for each of the {len(labels)} samples", owners.shape)
        present, rank = np.unique(owners, return_inverse=True)
        _check_owners(num_clients, len(present))
        if self.subsets:
            client = rng.permutation(np.arange(len(present)) % num_clients)
        else:
            client = np.arange(len(present))
            client[num_clients:] = NOBODY
        return check_served(from_owners(client[rank], num_clients), "use fewer clients")

    def split_runs(self, owners: OwnerRuns, num_clients: int, left_out: np.ndarray) -> Partition:
        """What `split` deals without subsets, of samples sorted by owner, but for those left out [m], ascending.

        Nothing in it is as long as the samples. The indices are those of all samples, and only slices of them exist.
        """
        every = owners.without(left_out)
        _check_owners(num_clients, every.num_clients)
        return Partition(every.indices, every.offsets[: num_clients + 1])


def _check_owners(num_clients: int, owners: int) -> None:
    """ConfigError unless every client can be an owner."""
    if not 1 <= num_clients <= owners:
        nearest = min(max(1, num_clients), owners)
        raise ConfigError("num_clients", f"must lie in 1..{owners} (the owners)", num_clients, nearest)


PARTITIONS: Mapping[str, type[Partitioner]] = MappingProxyType(
    {
        "iid": IID,
        "lognormal": LogNormal,
        "dirichlet": Dirichlet,
        "dba_dirichlet": DBADirichlet,
        "phi_groups": PhiGroups,
        "classes_per_client": ClassesPerClient,
        "natural": Natural,
    }
)


def _dealt(num_samples: int, sizes: np.ndarray, rng: np.random.Generator) -> Partition:
    """Random samples for every client, as many as `sizes` [clients] says; what is left is held by nobody."""
    owner = np.full(num_samples, NOBODY, np.int64)
    owner[rng.permutation(num_samples)[: sizes.sum()]] = np.repeat(np.arange(len(sizes)), sizes)
    return from_owners(owner, len(sizes))


def _hands(num_samples: int, num_clients: int, size: int, rng: np.random.Generator) -> Partition:
    """`num_clients` hands of `size` samples, from as many passes over the data as that takes."""
    if num_clients < 1:
        raise ConfigError("num_clients", "must be positive", num_clients, 1)
    if size > num_samples:
        raise ConfigError(
            "samples_per_client", f"must be at most the {num_samples} samples", size, num_samples
        )
    hands_per_pass = num_samples // size
    passes = -(-num_clients // hands_per_pass)
    order = np.tile(np.arange(num_samples, dtype=index_type(num_samples)), (passes, 1))
    rng.permuted(order, axis=1, out=order)
    hands = order[:, : hands_per_pass * size].reshape(-1, size)[:num_clients]
    hands.sort(axis=1)
    return Partition(hands.ravel(), offsets_of(np.full(num_clients, size)))
