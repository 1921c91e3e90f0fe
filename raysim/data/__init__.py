"""Data sets by name, and where they are looked for.

`load` is the way in. Partitions of the training set over clients are in `raysim.data.partition`, the edge-case
backdoor sets in `raysim.data.edge_cases`. Importing this package imports neither torch, torchvision,
scikit-learn nor pyarrow.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from raysim.data import celeba, gtsrb, image_sets, shards, synthetic, torchvision_sets
from raysim.data.dataset import Dataset, FederatedData, normalise
from raysim.data.selection import Selection
from raysim.errors import ConfigError, unknown_name
from raysim.options import arguments

__all__ = [
    "DATASETS",
    "Dataset",
    "FederatedData",
    "Loader",
    "default_root",
    "load",
    "loader_options",
    "normalise",
]

Loader = Callable[..., FederatedData]
"""(root, *, download, seed, limit, **options); keyword defaults are the options' defaults."""

DATASETS: Mapping[str, Loader] = MappingProxyType(
    {
        "digits": synthetic.digits,
        "mnist": torchvision_sets.mnist,
        "fashion_mnist": torchvision_sets.fashion_mnist,
        "emnist": torchvision_sets.emnist,
        "femnist": image_sets.femnist,
        "cifar10": torchvision_sets.cifar10,
        "cifar100": torchvision_sets.cifar100,
        "svhn": torchvision_sets.svhn,
        "gtsrb": gtsrb.load,
        "tiny_imagenet": image_sets.tiny_imagenet,
        "celeba": celeba.load,
        "kather": image_sets.kather,
        "parquet": image_sets.parquet,
        "image_folder": image_sets.image_folder,
        "synthetic": synthetic.synthetic,
        "shards": shards.shards,
    }
)


def load(
    name: str,
    root: str | Path | None = None,
    *,
    limit: int | None = None,
    download: bool = False,
    seed: int = 0,
    **options: object,
) -> FederatedData:
    """Load the data set `name`.

    root: the folder data sets lie under; None = `default_root()`. limit: keep the first `limit` training
    samples after a shuffle seeded by `seed`, and limit // 5 test samples (at least one) likewise; images that
    are stored encoded are decoded only if kept. None keeps everything in the stored order. download: let
    torchvision fetch missing files; nothing is ever fetched otherwise. options: the loader's own.

    Raises ConfigError for an unknown name or option, DataError if files are missing (it says which to put
    where) or not what they should be.

    >>> load("digits", limit=50).train.images.shape
    (50, 1, 8, 8)
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    check_options(name, options)
    options = arguments(DATASETS[name], options)
    Selection(limit, seed)  # refuses a wrong limit before any file is touched
    place = default_root() if root is None else _expanded(root)
    return DATASETS[name](place, download=download, seed=seed, limit=limit, **options)


def loader_options(name: str) -> dict[str, object]:
    """The options of data set `name` with their default values.

    >>> loader_options("gtsrb")
    {'size': 128}
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS)
    return options_of(DATASETS[name])


def options_of(loader: Callable[..., object]) -> dict[str, object]:
    """A loader's own options with their default values."""
    common = {"root", "download", "seed", "limit"}
    parameters = inspect.signature(loader).parameters
    return {key: item.default for key, item in parameters.items() if key not in common}


def check_options(name: str, given: Mapping[str, object]) -> None:
    """Raise ConfigError for the first option that data set `name` does not have."""
    known = loader_options(name)
    for key in given:
        if key not in known:
            if not known:
                raise ConfigError(key, f"the data set {name} has no options", key)
            raise unknown_name(f"option of the data set {name}", key, known)


def default_root() -> Path:
    """$RAYSIM_DATA where set, else `raysim` in the user's cache folder (~/.cache).

    A user without a home has its place kept as it is written, so that errors name it.
    """
    if named := os.environ.get("RAYSIM_DATA"):
        return _expanded(named)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "raysim"


def _expanded(place: str | Path) -> Path:
    """`place` with its `~` replaced, if there is such a user."""
    return Path(os.path.expanduser(place))  # Path.expanduser raises if there is no home
