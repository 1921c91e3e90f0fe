"""What kinds of devices have in common: options from which a fleet is made, one device for every client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from raysim.fleet.completion import Speeds
from raysim.options import Declared


class Fleet(Protocol):
    """The devices of all clients, each a pure function of (seed, client): whoever else takes part changes none."""

    @property
    def always_online(self) -> bool:
        """Whether no device is ever offline."""

    def speeds(self, clients: np.ndarray) -> Speeds:
        """How fast the devices of these clients [n] are."""

    def online_until(self, clients: np.ndarray, at_s: float) -> np.ndarray:
        """The virtual second at which each device [n] goes offline that is online at `at_s`, inf: never; `at_s` itself
        where it is offline.
        """


@dataclass(frozen=True)
class Devices(Declared, ABC):
    """A kind of devices: a frozen dataclass whose fields are its options. `fleet` is all that it must define."""

    def identified(self) -> Self:
        """The same with what tells the files it reads from others, for a run to go on with those it began with."""
        return self

    @abstractmethod
    def fleet(self, seed: int) -> Fleet:
        """The devices of all clients; ConfigError if there are none to be had."""
