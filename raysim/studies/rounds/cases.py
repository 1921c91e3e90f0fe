"""The rounds that are timed: configurations by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysim.config.schema import ExperimentConfig

SKEWED: dict[str, Any] = {"name": "synthetic", "shape": [1, 8, 8], "train_size": 20_000, "test_size": 1000}
"""Enough samples for clients of very different sizes."""

CASES: Mapping[str, dict[str, Any]] = {
    "digits": {
        "population": {"clients": 100},
        "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 100}},
        "model": "digits_cnn",
        "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.05}},
    },
    "cifar10": {
        "population": {"clients": 24},
        "data": {"name": "cifar10", "limit": 12_000, "partition": {"name": "iid", "samples_per_client": 320}},
        "model": "flare_cifar",
        "training": {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.05}},
    },
    "dirichlet": {
        "population": {"clients": 100},
        "data": {**SKEWED, "partition": {"name": "dirichlet", "alpha": 0.1}},
        "model": "digits_cnn",
        "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.05}},
    },
    "lognormal": {
        "population": {"clients": 100},
        "data": {**SKEWED, "partition": {"name": "lognormal", "sigma": 1.0}},
        "model": "digits_cnn",
        "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.05}},
    },
    "leaf": {
        "population": {"clients": 24},
        "data": {
            "name": "synthetic", "shape": [1, 28, 28], "train_size": 960, "test_size": 64, "partition": {"name": "iid"},
        },
        "model": "leaf_cnn",
        "training": {"epochs": 1, "batch_size": 10, "clients_per_stack": 1},
    },
}  # fmt: skip
"""Name -> configuration. All are defended by Krum unless asked otherwise; every round is evaluated, recorded, traced and
checkpointed. `leaf` has a large matrix (6.6 million columns) of little training: what it costs is detection.
"""

WARM_UP = 2
"""Rounds that warm up caches and worker processes, before those that count."""


def bench_config(
    case: str, rounds: int, root: str | None = None, seed: int = 0, defense: str = "krum"
) -> ExperimentConfig:
    """The configuration of a case, `rounds` rounds long, with its data under `root`."""
    own = {"seed": seed, "rounds": rounds, "defense": defense, "checkpoint": {"every": 1}}
    values = {**CASES[case], **own}
    return ExperimentConfig.from_mapping({**values, "data": {**values["data"], "root": root}})
