"""Partitions whose clients differ in their labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from raysim.data.assignment import NOBODY, Partition, check_demand, check_served, from_owners
from raysim.errors import ConfigError
from raysim.options import Count, Declared, Fraction, Positive, PositiveInt


@dataclass(frozen=True)
class Dirichlet(Declared):
    """Each class is dealt in proportions drawn from Dirichlet(alpha): latent Dirichlet allocation.

    Follows the published LayerCAM-AE code. Per class, in label order: proportions q ~ Dir(alpha, ..., alpha)
    over the clients; q_i = 0 for clients that hold n / num_clients samples or more already; renormalise; cut the
    shuffled class at floor(cumsum(q) * class size). The whole draw is repeated until every client has
    `min_samples` (the code's 10; its GTSRB script has 43). Every sample is dealt.

    Small alpha = more heterogeneous (the paper's text says the reverse). Added guards: where every client with
    a positive proportion is full the class is dealt uniformly; after `max_retries` repetitions ConfigError.
    """

    alpha: Positive = 0.5
    """Concentration of the Dirichlet draw; small: clients differ more in their labels."""
    min_samples: Count = 10
    """Samples that every client must get, or all is drawn again (the code: 10; its GTSRB script: 43)."""
    max_retries: Count = 1000
    """Further draws before the demand is refused."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples with `labels` [n] to `num_clients` clients; `owners` is not used."""
        check_demand(num_clients, len(labels), self.min_samples)
        class_sizes = np.bincount(labels)
        for _ in range(1 + self.max_retries):
            held = np.zeros(num_clients, np.int64)
            ends = np.empty((len(class_sizes), num_clients), np.int64)
            for label, size in enumerate(class_sizes):
                shares = rng.dirichlet(np.full(num_clients, self.alpha))
                shares[held >= len(labels) / num_clients] = 0
                total = shares.sum()
                shares = shares / total if total > 0 else np.full(num_clients, 1 / num_clients)
                ends[label] = np.floor(np.cumsum(shares) * size)
                ends[label, -1] = size
                held += np.diff(ends[label], prepend=0)
            if held.min() >= self.min_samples:
                return _cut(labels, ends, rng)
        raise _no_draw(self, num_clients, held)


@dataclass(frozen=True)
class DBADirichlet(Declared):
    """The Dirichlet draw of DBA's code: counts scaled by class 0's size, left-overs dealt to nobody.

    Xie et al. (ICLR 2020), published code: per class, client i in turn takes round(q_i * size of class 0)
    samples, as long as the class lasts, q ~ Dir(alpha, ..., alpha); what is left of the class is lost. The code
    accepts clients without a sample; here the draw is repeated, at most `max_retries` times, until every client
    has `min_samples` (0 = as in the code).
    """

    alpha: Positive = 0.5
    """Concentration of the Dirichlet draw; small: clients differ more in their labels."""
    min_samples: Count = 1
    """Samples that every client must get, or all is drawn again (0: as in the code)."""
    max_retries: Count = 1000
    """Further draws before the demand is refused."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples with `labels` [n] to `num_clients` clients; `owners` is not used."""
        check_demand(num_clients, len(labels), self.min_samples)
        class_sizes = np.bincount(labels)
        for _ in range(1 + self.max_retries):
            shares = rng.dirichlet(np.full(num_clients, self.alpha), size=len(class_sizes))
            wanted = np.rint(shares * class_sizes[0]).astype(np.int64)
            ends = np.minimum(np.cumsum(wanted, axis=1), class_sizes[:, None])
            held = np.diff(ends, prepend=0, axis=1).sum(axis=0)
            if held.min() >= self.min_samples:
                return _cut(labels, ends, rng)
        raise _no_draw(self, num_clients, held)


@dataclass(frozen=True)
class PhiGroups(Declared):
    """FedGrad's groups: a share phi of class k goes to the k-th group of clients, the rest to everybody.

    variant = paper: clients are split at random into as many groups as classes, equal up to one client; of every
    class floor(phi * size + 1/2) random samples are dealt evenly to its group; the rest, in random order, evenly
    to all clients (rest = all: phi = 0 is IID, as the paper claims) or, class by class, to the clients of the
    other groups (rest = others, the other reading: phi = 0 is not IID). phi = 1: one class a client.

    variant = code: the published code has no groups; it calls Dirichlet(alpha = phi), so a larger phi is *less*
    skewed, and phi = 0 is IID. `rest` must be left at all.
    """

    phi: Fraction = 0.5
    """Share of a class that goes to its own group (paper), or the Dirichlet's alpha (code)."""
    variant: Literal["paper", "code"] = "paper"
    """Groups as in the `paper`, or the published `code`'s Dirichlet draw."""
    rest: Literal["all", "others"] = "all"
    """Who gets the rest of a class: `all` clients, or the `others`, outside its group."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant == "code" and self.rest != "all":
            raise ConfigError(
                "rest", "must be left at 'all' for variant 'code', which has no groups", self.rest
            )

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples with `labels` [n] to `num_clients` clients; `owners` is not used."""
        if self.variant == "code" and self.phi > 0:
            return Dirichlet(self.phi).split(labels, num_clients, rng)
        check_demand(num_clients, len(labels))
        everybody = np.arange(num_clients)
        owner = np.empty(len(labels), np.int64)
        if self.phi == 0 and self.rest == "all":
            _deal(owner, np.arange(len(labels)), everybody, rng)
            return from_owners(owner, num_clients)
        classes = np.unique(labels)
        least = 2 if self.rest == "others" else 1
        if not least <= len(classes) <= num_clients:
            rule = f"needs at least one client for each class, and {least} classes ({len(classes)} present)"
            raise ConfigError("num_clients", rule, num_clients)
        remainder = []
        for label, group in zip(
            classes, np.array_split(rng.permutation(num_clients), len(classes)), strict=True
        ):
            members = rng.permutation(np.flatnonzero(labels == label))
            own = int(self.phi * len(members) + 0.5)
            _deal(owner, members[:own], group, rng)
            if self.rest == "others":
                _deal(owner, members[own:], np.setdiff1d(everybody, group), rng)
            else:
                remainder.append(members[own:])
        if remainder:
            _deal(owner, np.concatenate(remainder), everybody, rng)
        return check_served(
            from_owners(owner, num_clients), "use fewer clients, a smaller phi or more samples"
        )


@dataclass(frozen=True)
class ClassesPerClient(Declared):
    """Every client holds exactly `classes_per_client` classes and equally many samples; disjoint.

    FLARE's setting, after Sattler et al. (2019): classes are cut into shards of one size, and every client gets
    one shard each of `classes_per_client` different classes, fewer than there are. Every class is held by some
    client. The shard size is the largest that allows this; what does not fill a shard is dealt to nobody, so a
    rare class makes all clients small. Which classes meet in a client is random: a deal without duplicates is
    mixed by random swaps between pairs of clients that make none.
    """

    classes_per_client: PositiveInt = 2
    """Classes that every client holds, fewer than there are."""

    def split(
        self,
        labels: np.ndarray,
        num_clients: int,
        rng: np.random.Generator,
        owners: np.ndarray | None = None,
    ) -> Partition:
        """Deal the samples with `labels` [n] to `num_clients` clients; `owners` is not used."""
        each = self.classes_per_client
        classes, class_sizes = np.unique(labels, return_counts=True)
        if each >= len(classes):
            rule = f"must be less than the {len(classes)} classes present"
            raise ConfigError("classes_per_client", rule, each, max(1, len(classes) - 1))
        check_demand(num_clients, len(labels), each)
        if num_clients * each < len(classes):
            rule = (
                f"must be at least {-(-len(classes) // each)}, for {len(classes)} classes at {each} a client"
            )
            raise ConfigError("num_clients", rule, num_clients, -(-len(classes) // each))

        shard = _shard_size(class_sizes, num_clients, each)
        # no client takes a class twice, so no class is worth more than num_clients shards
        supply = np.minimum(class_sizes // shard, num_clients)
        surplus = num_clients * each - len(classes)
        counts = 1 + rng.multivariate_hypergeometric(supply - 1, surplus)
        hands = _mix(_deal_shards(counts, num_clients, each, rng), rng)

        owner = np.full(len(labels), NOBODY, np.int64)
        for place, label in enumerate(classes):
            takers = np.flatnonzero((hands == place).any(axis=1))
            members = rng.permutation(np.flatnonzero(labels == label))[: len(takers) * shard]
            owner[members] = np.repeat(takers, shard)
        return from_owners(owner, num_clients)


def _no_draw(method: Dirichlet | DBADirichlet, num_clients: int, held: np.ndarray) -> ConfigError:
    rule = (
        f"no draw of {1 + method.max_retries} gave each of {num_clients} clients that many samples"
        f" (the last gave one client {held.min()}): lower it, raise alpha or max_retries, or use fewer clients"
    )
    return ConfigError("min_samples", rule, method.min_samples)


def _cut(labels: np.ndarray, ends: np.ndarray, rng: np.random.Generator) -> Partition:
    """Cut every shuffled class at its row of `ends` [classes, clients]; beyond the last end is nobody's."""
    owner = np.full(len(labels), NOBODY, np.int64)
    for label, cuts in enumerate(ends):
        members = rng.permutation(np.flatnonzero(labels == label))
        owner[members[: cuts[-1]]] = np.repeat(np.arange(len(cuts)), np.diff(cuts, prepend=0))
    return from_owners(owner, ends.shape[1])


def _deal(owner: np.ndarray, samples: np.ndarray, clients: np.ndarray, rng: np.random.Generator) -> None:
    """Give `samples` in random order to `clients` in random order, evenly up to one sample."""
    owner[rng.permutation(samples)] = np.resize(rng.permutation(clients), len(samples))


def _shard_size(class_sizes: np.ndarray, num_clients: int, each: int) -> int:
    """The largest size at which every class fills a shard and all classes fill num_clients * each."""
    low, high = 0, int(min(class_sizes.min(), class_sizes.sum() // (num_clients * each)))
    while low < high:
        size = (low + high + 1) // 2
        if np.minimum(class_sizes // size, num_clients).sum() >= num_clients * each:
            low = size
        else:
            high = size - 1
    if low == 0:
        rule = f"the classes are too uneven for {each} different classes in each of {num_clients} clients"
        raise ConfigError("num_clients", rule, num_clients)
    return low


def _deal_shards(counts: np.ndarray, num_clients: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """Hands [num_clients, each] of class places: class k occurs counts[k] <= num_clients times, never twice in one.

    Shards of one class are dealt to consecutive clients, so none gets two.
    """
    order = rng.permutation(len(counts))
    dealt = np.repeat(order, counts[order]).reshape(each, num_clients)
    return rng.permutation(dealt.T)


def _mix(hands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random swaps of one class between random pairs of clients wherever that gives neither a duplicate."""
    num_clients, each = hands.shape
    pairs = num_clients // 2
    for _ in range(20 * each):
        left, right = rng.permutation(num_clients)[: 2 * pairs].reshape(2, pairs)
        left_slot, right_slot = rng.integers(each, size=(2, pairs))
        gives, takes = hands[left, left_slot], hands[right, right_slot]
        fits = ~((hands[left] == takes[:, None]).any(axis=1) | (hands[right] == gives[:, None]).any(axis=1))
        hands[left[fits], left_slot[fits]] = takes[fits]
        hands[right[fits], right_slot[fits]] = gives[fits]
    return hands
