"""Components of a user's own, which configurations name by import path, and a configuration for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from raysim import Attack, ConfigError, Defense
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.data.dataset import Dataset

OWN = __name__


@dataclass(frozen=True)
class Demanding(Defense):
    """Wants a cohort of a certain size."""

    size: int = 3
    mode: str = "all"
    weights: tuple[float, ...] = field(default=(1.0, 2.0))

    def __post_init__(self):
        if self.size < 1:
            raise ConfigError("size", "must be positive", self.size, 1)

    def check(self, setting):
        if setting.cohort < self.size:
            raise ConfigError("size", "must not exceed the cohort", self.size, setting.cohort)
        if self.mode == "server":
            raise ConfigError("server_data.samples", "must be at least 1", setting.server_samples, 1)


@dataclass(frozen=True)
class Bare(Defense):
    """Has no options."""


@dataclass(frozen=True)
class Numbers(Defense):
    """Has options of every type that a boolean or infinity might slip into."""

    count: int | None = None
    share: float = 0.5
    bound: float = np.inf
    side: int | str = "native"
    switch: bool = False
    either: bool | int = 0
    weights: tuple[float, ...] = ()


class Undecorated(Defense):
    """Its hyper-parameters would be no fields."""

    keep: int = 3


@dataclass(frozen=True)
class Targeted(Attack):
    """Turns class `source` into class 0."""

    source: int = 1

    def check(self, setting):
        if self.source >= setting.num_classes:
            raise ConfigError("source", "must be a class", self.source, setting.num_classes - 1)

    def triggered_test(self, test):
        inside = test.labels == self.source
        return Dataset(test.images[inside], np.zeros(int(inside.sum()), np.int64))


@dataclass(frozen=True)
class Half:
    """A partition: the first half of the samples to client 0, the rest to the last."""

    def split(self, labels, num_clients, rng, owners=None):
        from raysim.data.assignment import from_owners

        middle = len(labels) // 2
        return from_owners(np.repeat([0, num_clients - 1], [middle, len(labels) - middle]), num_clients)


def config_of(**values):
    base = {
        "population": {"clients": 8},
        "data": {"name": "digits", "limit": 200},
        "server_data": {"samples": 20},
    }
    return ExperimentConfig.from_mapping({**base, **values})


def noise(**options):
    return {"name": "noise", **options}


def refusal(**values):
    with pytest.raises(ConfigError) as caught:
        compose(config_of(**values))
    return caught.value
