"""Who takes part in a round: whom the server asks, and, where clients have devices, whose update it gets in time.

In virtual time a round goes as in FedScale (Lai et al., ICML 2022; `fleet/completion.py` has a client's seconds): the
server asks more clients than it needs (`population.over_selection`), and goes on when as many have answered as it needs.
All that is known before anybody trains, so that clients who come too late are not trained at all.

Variant: FedScale drops a client that is offline at the moment it would be done; here it must be online all the time from
being asked to the end of its upload. FedScale has no deadline and leaves those that it loses out of account; here a server
that lacks updates waits until `population.deadline_s`, or without one until the last client it asked has answered or
gone offline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from raysim import rng
from raysim.context import State
from raysim.engine.experiment import Experiment
from raysim.fleet.completion import Seconds, completion

OFFLINE = "went offline"
TOO_LATE = "too late: the round was over"
"""Why a client that was asked is not waited for; beside it, the deadline."""

PATIENCE_S = 60.0
"""Virtual seconds until a server without a deadline that found nobody online asks again."""


@dataclass(frozen=True)
class Arrivals:
    """The clients of a round and their virtual time.

    cohort: sorted ids [K] of those who take part. late: client -> why its update is not waited for. asked, seconds: sorted
    ids [n] of those who work on it, late ones too, and how long each takes, or would. start_s, duration_s: when the round
    began, and how long it took; None without devices. In asynchronous rounds also versions [n]: the round whose global
    model each was sent, and under_way: who still is after the round (`buffered.UnderWay`).
    """

    cohort: np.ndarray
    late: Mapping[int, str] = field(default_factory=dict)
    asked: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    seconds: Seconds | None = None
    start_s: float | None = None
    duration_s: float | None = None
    versions: np.ndarray | None = None
    round: int = 0
    under_way: State = field(default_factory=dict)

    @property
    def end_s(self) -> float:
        """The virtual clock after the round; it stands still without devices."""
        return (self.start_s or 0.0) + (self.duration_s or 0.0)

    def parts_of(self, client: int) -> tuple[float, float, float] | None:
        """Virtual seconds of a client's download, training and upload; None if it does not work on this round."""
        place = int(np.searchsorted(self.asked, client))
        if self.seconds is None or place == len(self.asked) or self.asked[place] != client:
            return None
        parts = (self.seconds.download, self.seconds.compute, self.seconds.upload)
        return tuple(float(part[place]) for part in parts)  # type: ignore[return-value]  # three of them

    def staleness_of(self, clients: np.ndarray) -> np.ndarray:
        """How many versions behind the round's those are [k] that these clients, who have a part in it, were sent."""
        if self.versions is None:
            return np.zeros(len(clients), np.int64)
        behind: np.ndarray = self.round - self.versions[np.searchsorted(self.asked, clients)]
        return behind


def draw_cohort(experiment: Experiment, round: int, clock_s: float = 0.0) -> np.ndarray:
    """Sorted ids of the clients that the server asks to take part, from (seed, round) and the virtual clock alone.

    Where devices are offline at times, they are drawn among those that are online.
    """
    population, wanted = len(experiment.sizes), experiment.config.population.num_asked
    generator = rng.generator(experiment.config.seed, "cohort", round)
    joining = online(experiment, experiment.setup.joining(round), clock_s)
    size = wanted
    while True:
        drawn = (
            np.arange(population) if size == population else generator.choice(population, size, replace=False)
        )
        found = online(experiment, drawn, clock_s)
        if len(found) >= wanted or size == population:
            break
        size = min(2 * size, population)
    if len(joining):  # they take the places of clients drawn last
        found = np.concatenate([joining, found[~np.isin(found, joining)]])
    return np.sort(found[:wanted])


def online(experiment: Experiment, clients: np.ndarray, clock_s: float) -> np.ndarray:
    """Those of the clients whose devices are online."""
    fleet = experiment.fleet
    if fleet is None or fleet.always_online:
        return clients
    return clients[fleet.online_until(clients, clock_s) > clock_s]


def seconds_of(experiment: Experiment, clients: np.ndarray) -> Seconds:
    """How long these clients [n] take, from being sent the global model to the arrival of the update."""
    assert experiment.fleet is not None, "asked only where clients have devices"
    samples = experiment.setup.recipe.epochs * experiment.sizes[clients]
    model_bytes = 4 * experiment.setup.layout.num_columns
    return completion(experiment.fleet.speeds(clients), samples, model_bytes)


def await_arrivals(experiment: Experiment, asked: np.ndarray, clock_s: float) -> Arrivals:
    """Whose updates the server gets of the clients it asks [n] at this virtual second, and how long that takes.

    Clients without enough samples say so at once, and are not waited for. Of those that are equally fast, the ones with
    lower ids come first.
    """
    if experiment.fleet is None:
        return Arrivals(asked)
    population = experiment.config.population
    deadline = np.inf if population.deadline_s is None else population.deadline_s
    able = asked[experiment.sizes[asked] >= experiment.setup.least_samples]
    seconds = seconds_of(experiment, able)
    takes, left = seconds.total, experiment.fleet.online_until(able, clock_s) - clock_s
    wanted = min(population.cohort_size, len(able))
    arriving = np.flatnonzero((takes <= left) & (takes <= deadline))
    first = arriving[np.argsort(takes[arriving], kind="stable")][:wanted]
    if wanted and len(first) == wanted:
        duration = float(takes[first[-1]])
    elif np.isfinite(deadline):
        duration = deadline
    else:
        duration = float(np.minimum(takes, left).max(initial=0.0)) or PATIENCE_S
    late = {}
    for place in np.setdiff1d(np.arange(len(able)), first):
        if left[place] < takes[place] and left[place] <= duration:
            late[int(able[place])] = OFFLINE
        elif len(first) == wanted:
            late[int(able[place])] = TOO_LATE
        else:
            late[int(able[place])] = f"missed the deadline of {deadline:g} s"
    cohort = np.setdiff1d(asked, list(late))
    return Arrivals(cohort, late, able, seconds, clock_s, duration)
