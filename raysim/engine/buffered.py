"""Asynchronous rounds: the clients that are under way, and the buffer of updates that a round waits for.

FedBuff (Nguyen et al., "Federated learning with buffered asynchronous aggregation", AISTATS 2022): M clients train at the
same time (`population.concurrency`), each from the global model that was the newest when it was asked. Their updates go
into a buffer in the order in which they arrive. With K of them in it (`population.buffer`) the server aggregates: that is
a round, and the model's version is the number of rounds before it. A client that has answered is replaced by one that is
drawn anew and sent the newest model; how many versions an update is behind when it is aggregated is its staleness.

Who arrives when follows from virtual seconds and the seed alone, whatever anybody trains. So clients are trained in the
round that takes their updates up, in one go, each from the model that it was sent: what waits, and lies in a checkpoint,
are the older models that somebody under way was sent, never more than clients, and not their updates. Clients that go
offline, or come too late for `server.max_staleness`, are not trained at all.

Variants: the paper does not say who may be drawn. Here it is whoever is online, holds enough samples, is not under way, and
has had no part in the round yet, so that a buffer holds a client once. Where there is nobody like that, the place is
filled after the next arrival; if nobody is under way either, the server asks again after a minute.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from raysim import rng
from raysim.context import State
from raysim.engine.cohort import OFFLINE, PATIENCE_S, Arrivals, online, seconds_of
from raysim.engine.experiment import Experiment, RunState
from raysim.errors import RunError
from raysim.formats import duration

TRIES = 256
"""Clients that are drawn at random before those that can be asked are listed, which takes as long as there are clients."""

LONGEST_S = 7 * 86_400.0
"""Virtual seconds for which nobody is under way, and nobody can be asked, after which a run gives up."""


def _ids() -> np.ndarray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class UnderWay:
    """The clients at work [m], in the order in which they were asked.

    versions [m]: number of the round whose global model each was sent. ends_s [m]: virtual second at which its update
    arrives, or, where it is lost [m], it goes offline. asked: how many clients have been asked since the start.
    """

    clients: np.ndarray = field(default_factory=_ids)
    versions: np.ndarray = field(default_factory=_ids)
    ends_s: np.ndarray = field(default_factory=lambda: np.zeros(0))
    lost: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    asked: int = 0

    def tree(self) -> State:
        """What a checkpoint holds of it; `UnderWay(**tree)` is the way back."""
        return asdict(self)

    def with_one(self, client: int, version: int, ends_s: float, lost: bool) -> UnderWay:
        """The same after one more client was asked."""
        return UnderWay(
            np.append(self.clients, client),
            np.append(self.versions, version),
            np.append(self.ends_s, ends_s),
            np.append(self.lost, lost),
            self.asked + 1,
        )

    def without(self, place: int) -> UnderWay:
        """The same after the client at this place has ended."""
        kept = np.delete(np.arange(len(self.clients)), place)
        return replace(
            self,
            clients=self.clients[kept],
            versions=self.versions[kept],
            ends_s=self.ends_s[kept],
            lost=self.lost[kept],
        )


def await_buffer(experiment: Experiment, state: RunState) -> Arrivals:
    """Whose updates fill the buffer of the round that begins in this state, and how long that takes.

    Of those that end at the same second, who was asked first comes first. RunError if for a week nobody can be asked.
    """
    population, oldest = experiment.config.population, experiment.config.server.max_staleness
    under_way, clock_s = UnderWay(**state.under_way), state.clock_s
    versions: dict[int, int] = {}
    late: dict[int, str] = {}
    waited_s = 0.0
    assert population.buffer is not None, "called only where rounds are asynchronous"
    while len(versions) - len(late) < population.buffer:
        under_way = _filled(experiment, under_way, state.round, clock_s, versions.keys())
        if not len(under_way.clients):
            waited_s += PATIENCE_S
            clock_s += PATIENCE_S
            if waited_s > LONGEST_S:
                raise RunError(
                    f"the buffer holds {len(versions) - len(late)} of {population.buffer} updates, nobody is under way, and "
                    f"for {duration(waited_s)} of virtual time no client could be asked that had no part in the round yet; "
                    "reduce population.buffer, or give devices more time online",
                    stage="wait",
                )
            continue
        waited_s, place = 0.0, int(np.argmin(under_way.ends_s))
        client, version = int(under_way.clients[place]), int(under_way.versions[place])
        clock_s = float(under_way.ends_s[place])
        versions[client] = version
        if under_way.lost[place]:
            late[client] = OFFLINE
        elif oldest is not None and state.round - version > oldest:
            late[client] = f"stale: more than {oldest} global models behind (server.max_staleness)"
        under_way = under_way.without(place)
    ended = np.array(sorted(versions), np.int64)
    return Arrivals(
        cohort=np.setdiff1d(ended, list(late)),
        late=late,
        asked=ended,
        seconds=seconds_of(experiment, ended),
        start_s=state.clock_s,
        duration_s=clock_s - state.clock_s,
        round=state.round,
        versions=np.array([versions[client] for client in ended.tolist()], np.int64),
        under_way=under_way.tree(),
    )


def _filled(
    experiment: Experiment, under_way: UnderWay, version: int, clock_s: float, ended: Set[int]
) -> UnderWay:
    """The same with free places given to clients that are asked now. ended: who has had a part in the round."""
    fleet, places = experiment.fleet, experiment.config.population.concurrency
    assert fleet is not None, "checked with the configuration"
    assert places is not None, "checked with the configuration"
    busy = {*ended, *under_way.clients.tolist()}
    while len(under_way.clients) < places:
        client = _drawn(experiment, under_way.asked, busy, clock_s)
        if client is None:
            break
        one = np.array([client])
        takes = float(seconds_of(experiment, one).total[0])
        until = float(fleet.online_until(one, clock_s)[0])
        lost = until - clock_s < takes
        under_way = under_way.with_one(client, version, until if lost else clock_s + takes, lost)
        busy.add(client)
    return under_way


def _drawn(experiment: Experiment, number: int, busy: Set[int], clock_s: float) -> int | None:
    """The client that is asked as the so-manieth of the run, of those who can be; None if nobody can."""
    sizes, least = experiment.sizes, experiment.setup.least_samples
    generator = rng.generator(experiment.config.seed, "under way", number)
    tries = TRIES if len(sizes) > TRIES else 0
    for client in generator.integers(len(sizes), size=tries).tolist():
        if (
            client not in busy
            and sizes[client] >= least
            and len(online(experiment, np.array([client]), clock_s))
        ):
            return int(client)
    able = np.setdiff1d(np.flatnonzero(sizes >= least), list(busy))
    able = online(experiment, able, clock_s)
    return int(generator.choice(able)) if len(able) else None
