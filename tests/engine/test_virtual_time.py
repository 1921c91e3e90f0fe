"""Whom rounds wait for, and until when, against queues of events written apart: random devices, ties and hours offline."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from raysim.engine import buffered
from raysim.engine.buffered import await_buffer
from raysim.engine.cohort import OFFLINE, PATIENCE_S, TOO_LATE, await_arrivals, seconds_of
from raysim.engine.experiment import Experiment, RunState
from raysim.errors import RunError
from raysim.fleet.completion import Speeds
from tests.engine.test_cohort import Given, experiment_of

CLIENTS = 9


@dataclass(frozen=True)
class Shifts:
    """Client c computes for takes[c] seconds and sends in none; it is online from c on for `hours` of every `period`."""

    takes: tuple[float, ...]
    hours: float
    period: float = 12.5
    always_online = False

    def speeds(self, clients: np.ndarray) -> Speeds:
        fast = np.full(len(clients), 1e30)
        return Speeds(np.array(self.takes)[clients] * 1000 / 3, fast, fast)

    def online_until(self, clients: np.ndarray, at_s: float) -> np.ndarray:
        since = (at_s - clients) % self.period
        return np.where(since < self.hours, at_s + self.hours - since, at_s)


@cache
def composed(**population: object) -> Experiment:
    return experiment_of(Given((1.0,) * CLIENTS), **population)


def shifts(draw: np.random.Generator) -> Shifts:
    """Whole seconds, of which many are equal."""
    return Shifts(tuple(draw.integers(1, 8, CLIENTS).astype(float)), float(draw.integers(2, 13)))


def takes_of(experiment: Experiment) -> list[float]:
    return [float(seconds_of(experiment, np.array([client])).total[0]) for client in range(CLIENTS)]


def expected_round(
    experiment: Experiment, asked: list[int], at_s: float, wanted: int, deadline: float | None
) -> tuple[list[int], dict[int, str], float]:
    """(who is in time, why the others are not, seconds): one event after another."""
    takes = takes_of(experiment)
    events = []
    for client in asked:
        left = float(experiment.fleet.online_until(np.array([client]), at_s)[0]) - at_s
        stays = takes[client] <= left
        events.append((takes[client] if stays else left, stays, client))  # who goes comes before who arrives
    arrived, late, now = [], {}, 0.0
    for when, stays, client in sorted(events):
        if len(arrived) == wanted or (deadline is not None and when > deadline):
            break
        now = when
        if stays:
            arrived.append(client)
        else:
            late[client] = OFFLINE
    full = len(arrived) == wanted
    if not full and deadline is not None:
        now = deadline
    for client in {*asked} - {*arrived} - {*late}:
        late[client] = TOO_LATE if full else f"missed the deadline of {deadline:g} s"
    return sorted(arrived), late, now


@pytest.mark.parametrize("deadline", [None, 4.0])
def test_a_round_ends_as_its_events_do(deadline: float | None) -> None:
    population = {"cohort": 4, "over_selection": 1.75, "deadline_s": deadline}
    seen: set[str] = set()
    for case in range(60):
        draw = np.random.default_rng(case)
        experiment = replace(composed(**population), fleet=shifts(draw))
        at_s = float(draw.integers(0, 40))
        online = experiment.fleet.online_until(np.arange(CLIENTS), at_s) > at_s
        asked = np.flatnonzero(online)[:7]
        if not len(asked):
            continue
        found = await_arrivals(experiment, asked, at_s)
        cohort, late, spent = expected_round(experiment, asked.tolist(), at_s, min(4, len(asked)), deadline)
        assert (found.cohort.tolist(), dict(found.late)) == (cohort, late), case
        assert found.duration_s == pytest.approx(spent), case
        seen |= {*late.values()}
    missed = set() if deadline is None else {f"missed the deadline of {deadline:g} s"}
    assert seen == {OFFLINE, TOO_LATE} | missed


def lowest(experiment: Experiment, number: int, busy: Set[int], clock_s: float) -> int | None:
    """Who is asked: the free client with the lowest id that is online."""
    until = experiment.fleet.online_until(np.arange(CLIENTS), clock_s)
    return next((c for c in range(CLIENTS) if c not in busy and until[c] > clock_s), None)


def events_of(
    experiment: Experiment, buffer: int, places: int, oldest: int
) -> Iterator[tuple[dict[int, int], dict[int, str], float]]:
    """(client -> staleness of those in the buffer, why others are lost, the clock), round after round, until nobody can be
    asked for too long.
    """
    takes, clock, asked, version = takes_of(experiment), 0.0, 0, 0
    queue: list[tuple[float, int, int, int, bool]] = []
    while True:
        inside: dict[int, int] = {}
        lost: dict[int, str] = {}
        waited = 0.0
        while len(inside) < buffer:
            while len(queue) < places:
                client = lowest(experiment, asked, {*inside, *lost, *(event[2] for event in queue)}, clock)
                if client is None:
                    break
                until = float(experiment.fleet.online_until(np.array([client]), clock)[0])
                goes = until - clock < takes[client]
                heapq.heappush(
                    queue, (until if goes else clock + takes[client], asked, client, version, goes)
                )
                asked += 1
            if not queue:
                clock += PATIENCE_S
                waited += PATIENCE_S
                if waited > buffered.LONGEST_S:
                    return
                continue
            waited = 0.0
            clock, _, client, began, goes = heapq.heappop(queue)
            if goes:
                lost[client] = OFFLINE
            elif version - began > oldest:
                lost[client] = f"stale: more than {oldest} global models behind (server.max_staleness)"
            else:
                inside[client] = version - began
        yield inside, lost, clock
        version += 1


def test_buffers_fill_as_their_events_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "_drawn", lowest)
    monkeypatch.setattr(buffered, "LONGEST_S", 600.0)
    plain = composed(buffer=3, concurrency=5)
    plain = replace(plain, config=plain.config.with_values(server={"max_staleness": 1}))
    seen: set[str] = set()
    ages: set[int] = set()
    stuck = 0
    for case in range(40):
        experiment = replace(plain, fleet=shifts(np.random.default_rng(case)))
        events, state = events_of(experiment, 3, 5, 1), RunState(0, np.zeros(3), None, {}, ())
        for number in range(12):
            expected = next(events, None)
            if expected is None:
                stuck += 1
                with pytest.raises(RunError, match="nobody is under way"):
                    await_buffer(experiment, state)
                break
            inside, lost, clock = expected
            found = await_buffer(experiment, state)
            cohort = found.cohort.tolist()
            assert dict(zip(cohort, found.staleness_of(found.cohort).tolist(), strict=True)) == inside, case
            assert (dict(found.late), found.start_s) == (lost, state.clock_s)
            assert found.end_s == pytest.approx(clock)
            assert found.end_s >= state.clock_s
            seen |= {*lost.values()}
            ages |= {*inside.values()}
            state = replace(state, round=number + 1, clock_s=found.end_s, under_way=found.under_way)
    assert len(seen) == 2
    assert ages == {0, 1}
    assert 0 < stuck < 40
