"""Which attack commands which clients, and in which rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from raysim.attack import Attack


@dataclass(frozen=True)
class Schedule:
    """When an attack is active: rounds start, start + every, ... before stop (None = to the end).

    joins: its clients take part in every active round (fixed frequency), instead of being drawn (fixed pool).
    """

    start: int = 0
    stop: int | None = None
    every: int = 1
    joins: bool = False

    def active(self, round: int) -> bool:
        """Whether round number `round` (from 0) is one of them."""
        return (
            round >= self.start
            and (self.stop is None or round < self.stop)
            and (round - self.start) % self.every == 0
        )


@dataclass(frozen=True)
class Campaign:
    """One attack, the clients it has compromised (sorted ids), and when it is active."""

    attack: Attack
    client_ids: np.ndarray
    schedule: Schedule = Schedule()

    @property
    def trains_alone(self) -> bool:
        """Whether its clients cannot train as the honest do: the attack trains in its own way, or not at all."""
        return type(self.attack).train is not Attack.train or not self.attack.trains

    @property
    def adapts(self) -> bool:
        """Whether what its success is measured on changes from round to round."""
        return type(self.attack).adapt_test is not Attack.adapt_test

    def place(self, client: int) -> int | None:
        """The client's place among the compromised ones, None when it is honest."""
        position = int(np.searchsorted(self.client_ids, client))
        inside = position < len(self.client_ids) and self.client_ids[position] == client
        return position if inside else None


HONEST = Campaign(Attack(), np.zeros(0, np.int64))
"""What clients that do not attack take part in: every hook of the base is honest."""


def commanded(campaigns: Iterable[Campaign]) -> np.ndarray:
    """Sorted ids of all clients that these campaigns command; those of a single one are not copied."""
    ids = [campaign.client_ids for campaign in campaigns]
    if len(ids) == 1:
        return ids[0]
    return np.sort(np.concatenate(ids)) if ids else np.zeros(0, np.int64)


def among(clients: Sequence[int] | np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Which of these clients [k] are among sorted ids [m], bool: in k log m steps, of however large a population.

    >>> among([3, 1, 9], np.array([1, 2, 3, 5]))
    array([ True,  True, False])
    """
    asked = np.asarray(clients, np.int64)
    if not len(ids):
        return np.zeros(len(asked), bool)
    found: np.ndarray = ids[np.minimum(np.searchsorted(ids, asked), len(ids) - 1)] == asked
    return found
