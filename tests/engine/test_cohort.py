"""Whom the server asks and waits for in virtual time, by hand, and in whole runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysim
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.cohort import OFFLINE, PATIENCE_S, TOO_LATE, Arrivals, await_arrivals, draw_cohort
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost
from raysim.errors import ConfigError
from raysim.fleet.completion import Speeds
from raysim.fleet.contract import Devices
from raysim.options import Positive

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """Client c computes for takes[c] seconds, sends in none, and goes offline at until[c]."""

    takes: tuple[float, ...]
    until: tuple[float, ...] = ()

    @property
    def always_online(self) -> bool:
        return not self.until

    def speeds(self, clients: np.ndarray) -> Speeds:
        fast = np.full(len(clients), 1e30)
        return Speeds(np.array(self.takes)[clients] * 1000 / 3, fast, fast)  # one sample each

    def online_until(self, clients: np.ndarray, at_s: float) -> np.ndarray:
        until = np.array(self.until or (np.inf,) * len(self.takes))[clients]
        return np.maximum(until, at_s)


def experiment_of(fleet: Given, **population: object) -> Experiment:
    """A population whose clients hold one sample each and have these devices."""
    config = ExperimentConfig(
        population={"clients": len(fleet.takes), "devices": "lognormal", **population},
        data={"name": "digits", "limit": 200},
    )
    return replace(compose(config), fleet=fleet, sizes=np.ones(len(fleet.takes), np.int64))


@dataclass(frozen=True)
class Alike(Devices):
    """All as fast as each other."""

    takes_s: Positive = 1.0
    """Seconds a sample."""

    def fleet(self, seed: int) -> Given:
        return Given((self.takes_s,) * 6)


@dataclass(frozen=True)
class Unfinished(Devices):
    """Makes no fleet."""


def late(arrivals: Arrivals) -> dict[int, str]:
    return dict(arrivals.late)


SIX = (5.0, 1.0, 4.0, 9.0, 2.0, 3.0)


def test_the_first_that_answer_are_taken_and_the_round_ends_with_the_last_of_them() -> None:
    experiment = experiment_of(Given(SIX), cohort=3, over_selection=2.0)
    found = await_arrivals(experiment, draw_cohort(experiment, 0), 10.0)
    assert found.cohort.tolist() == [1, 4, 5]
    assert late(found) == dict.fromkeys((0, 2, 3), TOO_LATE)
    assert (found.start_s, found.duration_s, found.end_s) == (10.0, 3.0, 13.0)
    assert found.parts_of(3) == (pytest.approx(0), pytest.approx(9.0), pytest.approx(0))
    assert found.parts_of(6) is None


def test_of_equally_fast_clients_lower_ids_come_first() -> None:
    experiment = experiment_of(Given((2.0,) * 6), cohort=3, over_selection=2.0)
    assert await_arrivals(experiment, np.arange(6), 0.0).cohort.tolist() == [0, 1, 2]


def test_a_server_that_lacks_updates_waits_until_the_deadline() -> None:
    experiment = experiment_of(Given(SIX), deadline_s=4.0)
    found = await_arrivals(experiment, np.arange(6), 0.0)
    assert found.cohort.tolist() == [1, 2, 4, 5]
    assert late(found) == dict.fromkeys((0, 3), "missed the deadline of 4 s")
    assert found.duration_s == 4.0


def test_with_enough_updates_it_does_not_wait_for_the_deadline() -> None:
    experiment = experiment_of(Given(SIX), cohort=2, over_selection=3.0, deadline_s=4.0)
    found = await_arrivals(experiment, np.arange(6), 0.0)
    assert (found.cohort.tolist(), found.duration_s) == ([1, 4], 2.0)
    assert set(late(found).values()) == {TOO_LATE}


def test_clients_that_go_offline_are_lost() -> None:
    """At 10 s, client 0 has 1 s left of 5, client 3 has 8 of 9: the server waits for the news of it."""
    fleet = Given(SIX, (11.0, 99.0, 99.0, 18.0, 12.0, 99.0))
    found = await_arrivals(experiment_of(fleet), np.arange(6), 10.0)
    assert found.cohort.tolist() == [1, 2, 4, 5]
    assert late(found) == dict.fromkeys((0, 3), OFFLINE)
    assert found.duration_s == 8.0
    short = await_arrivals(experiment_of(fleet, deadline_s=6.0), np.arange(6), 10.0)
    assert late(short) == {0: OFFLINE, 3: "missed the deadline of 6 s"}
    assert short.duration_s == 6.0


def test_clients_without_samples_are_not_waited_for() -> None:
    experiment = experiment_of(Given(SIX))
    experiment = replace(experiment, sizes=np.array([1, 1, 1, 0, 1, 1]))
    found = await_arrivals(experiment, np.arange(6), 0.0)
    assert found.cohort.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.duration_s == 5.0
    assert found.parts_of(3) is None


def test_a_round_that_finds_nobody_takes_the_deadline_or_a_minute() -> None:
    nobody = Given(SIX, (0.0,) * 6)
    for population, expected in (({}, PATIENCE_S), ({"deadline_s": 7.0}, 7.0)):
        experiment = experiment_of(nobody, **population)
        asked = draw_cohort(experiment, 0, 1.0)
        assert asked.tolist() == []
        assert await_arrivals(experiment, asked, 1.0).duration_s == expected


def test_those_who_are_online_are_drawn() -> None:
    until = tuple(100.0 if client % 3 == 0 else 0.0 for client in range(60))
    experiment = experiment_of(Given((1.0,) * 60, until), cohort=10)
    drawn = [draw_cohort(experiment, number, 50.0) for number in range(40)]
    assert all(len(cohort) == 10 and (cohort % 3 == 0).all() for cohort in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=60)[::3]
    assert 20 - 12 < counts.min() <= counts.max() < 20 + 12  # binomial(40, 1/2), more than three deviations
    assert (
        len(draw_cohort(replace(experiment, fleet=Given((1.0,) * 60, until[:3] + (0.0,) * 57)), 0, 50.0)) == 1
    )


def test_attackers_that_join_every_round_join_only_when_they_are_online() -> None:
    config = {
        "population": {"clients": 9, "malicious": 2, "cohort": 4, "devices": "lognormal"},
        "attack": {"name": "noise", "schedule": {"participation": "frequency"}},
        "data": {"name": "digits", "limit": 200},
    }
    fleet = Given((1.0,) * 9, (9.0,) * 8 + (0.0,))
    experiment = replace(compose(ExperimentConfig(**config)), fleet=fleet)
    for number in range(5):
        cohort = draw_cohort(experiment, number, 1.0)
        assert (7 in cohort, 8 in cohort, len(cohort)) == (True, False, 4)


def run(config: dict[str, Any], tmp_path: Path, name: str, **population: object) -> Any:
    settings = {**config, "defense": "median", "population": {**config["population"], **population}}
    return raysim.run(settings, name=name, out=tmp_path, backend="inprocess")


def clients(result: raysim.RunResult) -> Rows:
    rows: Rows = result.table("clients").to_pylist()
    return rows


HURRIED = {
    "cohort": 5,
    "over_selection": 1.6,
    "deadline_s": 1.2,
    "devices": "lognormal,online=0.8,period_s=10",
}


def test_devices_alone_change_no_result(tiny: dict[str, Any], tmp_path: Path) -> None:
    without, timed = (
        run(tiny, tmp_path, "without", cohort=6),
        run(tiny, tmp_path, "timed", cohort=6, devices="lognormal"),
    )
    assert without.digest == timed.digest
    assert [row["virtual_s"] for row in without.rounds] == [None] * 3
    clock = 0.0
    for row in timed.rounds:
        assert row["virtual_start_s"] == pytest.approx(clock)
        parts = [
            sum(client[f"virtual_{part}_s"] for part in ("download", "compute", "upload"))
            for client in clients(timed)
            if client["round"] == row["round"]
        ]
        assert row["virtual_s"] == pytest.approx(max(parts))
        clock += row["virtual_s"]


def test_who_comes_too_late_is_recorded_and_not_trained(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int]] = []
    plain = ClientHost.train

    def counted(self: ClientHost, order: Any, members: Any, *rest: Any) -> Any:
        trained.extend((order.round, int(client)) for client in members)
        return plain(self, order, members, *rest)

    monkeypatch.setattr(ClientHost, "train", counted)
    result = run(tiny, tmp_path, "hurried", **HURRIED)
    rows = clients(result)
    assert sorted(trained) == sorted((row["round"], row["client"]) for row in rows if not row["reason"])
    absent = [row for row in rows if row["reason"]]
    assert {row["reason"] for row in absent} >= {TOO_LATE}
    assert all(
        row["num_examples"] == 0 and row["weight"] is None and row["virtual_compute_s"] > 0 for row in absent
    )
    for number, row in enumerate(result.rounds):
        assert row["clients"] == sum(at == number for at, _ in trained) <= 5
        assert 0 < row["virtual_s"] <= 1.2


def test_a_run_that_is_resumed_keeps_the_virtual_clock(tiny: dict[str, Any], tmp_path: Path) -> None:
    whole = run(tiny, tmp_path, "whole", **HURRIED)
    run({**tiny, "rounds": 2}, tmp_path, "part", **HURRIED)
    resumed = raysim.resume(tmp_path / "part", rounds=3, backend="inprocess")
    assert (resumed.digest, clients(resumed)) == (whole.digest, clients(whole))
    assert [row["virtual_start_s"] for row in resumed.rounds] == [
        row["virtual_start_s"] for row in whole.rounds
    ]


def test_too_few_in_time_are_no_quorum(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(tiny, tmp_path, "few", devices="lognormal", deadline_s=0.4, min_cohort=10)
    reasons = {row["reason"] for row in clients(result)}
    assert any(reason.startswith("no quorum") for reason in reasons)
    assert "missed the deadline of 0.4 s" in reasons
    np.testing.assert_array_equal(result.global_vector, compose(result.config).initial)


def test_rounds_without_anybody_leave_the_model_as_it_is(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = run(tiny, tmp_path, "nobody", devices="lognormal", deadline_s=0.01)
    assert [(row["clients"], row["virtual_start_s"]) for row in result.rounds] == [
        (0, 0),
        (0, 0.01),
        (0, 0.02),
    ]
    np.testing.assert_array_equal(result.global_vector, compose(result.config).initial)


@pytest.mark.parametrize(
    ("population", "said"),
    [
        ({"deadline_s": 5.0}, "population.deadline_s: needs population.devices"),
        ({"over_selection": 1.3, "cohort": 5}, "population.over_selection: needs population.devices"),
        (
            {"devices": "lognormal", "over_selection": 1.3},
            r"over_selection: must not ask more .* nearest valid: 1.0",
        ),
        ({"devices": "lognormal", "deadline_s": 0.0}, "population.deadline_s: .*greater than 0"),
        (
            {"devices": "lognormal", "over_selection": 0.5},
            "population.over_selection: .*greater than or equal to 1",
        ),
        ({"devices": "lognorml"}, "population.devices.name: .*did you mean 'lognormal'"),
        ({"devices": "lognormal,online=0"}, r"population.devices.online: must lie in \(0, 1\]"),
        (
            {"devices": f"{__name__}:Unfinished"},
            r"population\.devices\.name: must define fleet; received '.*:Unfinished'",
        ),
        ({"devices": "trace"}, "population.devices.file: must be given"),
        ({"devices": "trace,file=none.csv"}, "population.devices.file: must be a table that can be read"),
    ],
)
def test_what_is_refused_before_the_start(population: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(ExperimentConfig(population=population, data={"name": "digits", "limit": 200}))


def test_devices_may_be_a_class_of_ones_own() -> None:
    config = ExperimentConfig(
        population={"clients": 6, "devices": f"{__name__}:Alike,takes_s=3"},
        data={"name": "digits", "limit": 200},
    )
    experiment = compose(config)
    assert experiment.config.population.devices.options == {"takes_s": 3.0}
    found = await_arrivals(replace(experiment, sizes=np.arange(1, 7)), np.arange(6), 0.0)
    assert found.duration_s == pytest.approx(6 * 3.0)


@pytest.mark.parametrize(
    ("cohort", "factor", "asked"), [(10, 1.3, 13), (100, 1.1, 110), (7, 1.5, 10), (3, 1.0, 3)]
)
def test_how_many_are_asked(cohort: int, factor: float, asked: int) -> None:
    population = {"clients": 200, "cohort": cohort, "over_selection": factor, "devices": "lognormal"}
    assert ExperimentConfig(population=population).population.num_asked == asked
