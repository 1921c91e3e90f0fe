"""Which samples there are, which of them the server holds, and how the rest is dealt to clients."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np

from raysim import data as datasets
from raysim import rng
from raysim.composition.lookup import find
from raysim.config.keys import asked, keys_under
from raysim.config.schema import ExperimentConfig
from raysim.context import ServerData
from raysim.data.assignment import OwnerRuns
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.given import federated
from raysim.data.partition import Natural, Partition, Partitioner
from raysim.errors import ConfigError, unknown_name
from raysim.options import arguments


def load_data(config: ExperimentConfig, given: object = None) -> FederatedData:
    """The data set; ConfigError names the dotted key of what it refuses. given: objects in its place.

    A loader of a user's own is told of root, download, seed and limit what it has parameters for; what it returns
    may be anything that `raysim.data.given.federated` takes.
    """
    wanted = config.data
    if given is not None:
        return federated(given, limit=wanted.limit, seed=config.seed)
    loader = find("data", datasets.DATASETS, wanted.name)
    own = datasets.options_of(loader)
    known = [*own, *(key for key in type(wanted).model_fields if key != "name")]
    for option in wanted.options:
        if option not in known:
            raise unknown_name(f"data.{option}", option, known)
    options = arguments(loader, wanted.options, "data.")
    with keys_under("data"):
        if datasets.DATASETS.get(wanted.name) is loader:
            try:
                return datasets.load(
                    wanted.name,
                    wanted.root,
                    limit=wanted.limit,
                    download=wanted.download,
                    seed=config.seed,
                    **options,
                )
            except MemoryError as error:
                rule = f"must be a data set that fits this machine's memory ({error})"
                raise ConfigError("name", rule, {"name": wanted.name, **wanted.options}) from error
        place = datasets.default_root() if wanted.root is None else Path(wanted.root).expanduser()
        facts = {"root": place, "download": wanted.download, "seed": config.seed, "limit": wanted.limit}
        taken = inspect.signature(loader).parameters
        found = loader(**{key: value for key, value in facts.items() if key in taken}, **options)
        return federated(found, limit=None if "limit" in taken else wanted.limit, seed=config.seed)


def set_aside(
    config: ExperimentConfig, source: FederatedData
) -> tuple[ServerData | None, np.ndarray, Dataset]:
    """(the server's own data, indices of training samples that clients do not get, the test set without its own)."""
    wanted = config.server_data
    none = np.zeros(0, np.int64)
    if not wanted.samples:
        return None, none, source.test
    origin = source.train if wanted.source == "train" else source.test
    candidates: np.ndarray | range = range(len(origin))
    if wanted.classes is not None:
        bad = [c for c in wanted.classes if not 0 <= c < source.num_classes]
        if bad or not wanted.classes:
            raise ConfigError(
                "server_data.classes", f"must list classes from 0 to {source.num_classes - 1}", wanted.classes
            )
        candidates = np.flatnonzero(np.isin(origin.labels[:], wanted.classes))
    if wanted.samples >= len(candidates):
        raise ConfigError(
            "server_data.samples",
            f"must leave some of the {len(candidates)} samples of that kind in the {wanted.source} set",
            wanted.samples,
            max(len(candidates) - 1, 0),
        )
    generator = rng.generator(config.seed, "server_data")
    drawn = generator.choice(len(candidates), wanted.samples, replace=False)
    taken = np.sort(drawn if isinstance(candidates, range) else candidates[drawn])
    order = generator.permutation(taken)
    held = ServerData(normalise(origin.images[order], source.mean, source.std).numpy(), origin.labels[order])
    if wanted.source == "train":
        return held, taken, source.test
    rest = np.setdiff1d(np.arange(len(source.test)), taken)
    return held, none, source.test.select(rest)


def hold_one(config: ExperimentConfig, source: FederatedData) -> tuple[Dataset, Partition]:
    """A placeholder of one sample that every client holds, so that each claims one example; it is never read."""
    clients = config.population.total
    one = source.train.select(np.zeros(1, np.int64))
    return one, Partition(np.zeros(clients, np.int32), np.arange(clients + 1))


def deal(
    config: ExperimentConfig, split: Partitioner, source: FederatedData, taken: np.ndarray
) -> tuple[Dataset, Partition]:
    """The training set, and which client holds which samples of it: those not `taken` [m], ascending, are dealt by `split`."""
    places = {"num_clients": "population.clients", "partition": "data.partition.name"}
    with asked("data.partition", split, **places):
        if isinstance(source.owners, OwnerRuns) and type(split) is Natural and not split.subsets:
            return source.train, split.split_runs(source.owners, config.population.total, taken)
        pool = np.delete(np.arange(len(source.train)), taken)
        partition = split.split(
            source.train.labels[pool],
            config.population.total,
            rng.generator(config.seed, "partition"),
            None if source.owners is None else source.owners[pool],
        )
    return source.train, Partition(pool[partition.indices], partition.offsets)
