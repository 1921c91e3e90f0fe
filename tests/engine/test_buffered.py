"""Asynchronous rounds: who arrives when by hand, FedBuff's sum against its formula, whole runs, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysim
from raysim.backends.base import InProcessBackend
from raysim.backends.capacity import Capacity
from raysim.composition.compose import check_asynchronous, compose
from raysim.composition.estimate import lines, make_plan
from raysim.config.schema import Component, ExperimentConfig
from raysim.config.training import ServerConfig
from raysim.context import Context, State
from raysim.data.partition import Partition
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.engine import buffered, simulation
from raysim.engine.buffered import await_buffer
from raysim.engine.cohort import OFFLINE, Arrivals
from raysim.engine.experiment import Experiment, RunState
from raysim.engine.host import ClientHost, RoundOrder
from raysim.engine.versions import discounts, models_in_use, scaled
from raysim.errors import ConfigError, RunError
from raysim.matrix.layout import Layout
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.replay.replay import replay
from raysim.runs import checkpoint
from raysim.runs.result import RunResult
from raysim.training.schedule import LearningRates
from tests.engine.test_cohort import Given, clients, experiment_of
from tests.small_models import SmallNet

SLOW_ONE = (1.0, 10.0, 2.0, 2.0, 2.0, 2.0)
"""Seconds of six clients: client 1 is still under way when the others are in their fourth round."""

ASYNCHRONOUS = {"clients": 12, "malicious": 3, "buffer": 4, "concurrency": 6, "devices": "lognormal"}


def lowest(experiment: Experiment, number: int, busy: Set[int], clock_s: float) -> int | None:
    """Who is asked in tests by hand: the free client with the lowest id."""
    free = [client for client in range(len(experiment.sizes)) if client not in busy]
    online = [
        client for client in free if experiment.fleet.online_until(np.array([client]), clock_s)[0] > clock_s
    ]
    return online[0] if online else None


def played(experiment: Experiment, count: int) -> list[tuple[RunState, Arrivals]]:
    """The state that each round begins with, and its arrivals; nobody trains. Version v of the model is v everywhere."""
    state, rounds = RunState(0, np.zeros(3), None, {}, ()), []
    for number in range(count):
        arrivals = await_buffer(experiment, state)
        rounds.append((state, arrivals))
        state = RunState(
            number + 1, np.full(3, number + 1.0), state.global_vector, {}, (), {},
            arrivals.end_s, arrivals.under_way, models_in_use(experiment, state, arrivals),
        )  # fmt: skip
    return rounds


def by_hand(monkeypatch: pytest.MonkeyPatch, fleet: Given, **server: object) -> Experiment:
    monkeypatch.setattr(buffered, "_drawn", lowest)
    experiment = experiment_of(fleet, buffer=2, concurrency=2)
    return replace(experiment, config=experiment.config.with_values(server=server))


def test_arrivals_and_staleness_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 1 is asked at 0 s and takes 10; 0 takes 1 and 2 takes 2, so that rounds of these two end at 3, 6 and 9 s. At
    10 s client 1 and client 0, asked at 9 s, arrive: who was asked first comes first, three models behind.
    """
    rounds = played(by_hand(monkeypatch, Given(SLOW_ONE)), 4)
    found = [(a.start_s, a.end_s, a.cohort.tolist(), a.staleness_of(a.cohort).tolist()) for _, a in rounds]
    assert found == [
        (0.0, 3.0, [0, 2], [0, 0]),
        (3.0, 6.0, [0, 2], [0, 0]),
        (6.0, 9.0, [0, 2], [0, 0]),
        (9.0, 10.0, [0, 1], [0, 3]),
    ]
    first = rounds[0][1].under_way
    assert (first["clients"].tolist(), first["versions"].tolist(), first["ends_s"].tolist()) == (
        [1],
        [0],
        [10.0],
    )
    assert first["asked"] == 3
    last = rounds[-1][1].under_way
    assert (last["clients"].tolist(), last["ends_s"].tolist(), last["asked"]) == ([2], [12.0], 9)


def test_models_are_kept_as_long_as_somebody_under_way_was_sent_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 0 is the model before the newest in round 1, older in 2 and 3, and nobody's after client 1 has arrived."""
    experiment = by_hand(monkeypatch, Given(SLOW_ONE))
    states = [state for state, _ in played(experiment, 5)]
    assert [sorted(state.models) for state in states] == [[], [], ["0"], ["0"], []]
    assert states[3].models["0"].tolist() == [0.0] * 3
    with_attackers = replace(
        experiment, setup=replace(experiment.setup, campaigns=compose(ATTACKED).setup.campaigns)
    )
    assert sorted(played(with_attackers, 5)[4][0].models) == [
        "2"
    ]  # client 2 was sent 3, and knows the one before


ATTACKED = ExperimentConfig(
    population=ASYNCHRONOUS, data={"name": "digits", "limit": 200}, attack={"name": "noise"}
)


def test_updates_that_are_too_stale_are_recorded_and_do_not_fill_the_buffer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment = by_hand(monkeypatch, Given(SLOW_ONE), max_staleness=2)
    _, last = played(experiment, 4)[-1]
    assert dict(last.late) == {1: "stale: more than 2 global models behind (server.max_staleness)"}
    assert (last.cohort.tolist(), last.asked.tolist(), last.end_s) == ([0, 2], [0, 1, 2], 12.0)
    assert last.staleness_of(last.asked).tolist() == [0, 3, 0]


def test_clients_that_go_offline_are_replaced_at_that_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 0 is offline from 0.5 s on: client 2 is asked then, and arrives at 2.5 s, as client 3 at 4.5 s."""
    experiment = by_hand(monkeypatch, Given(SLOW_ONE, (0.5, *(99.0,) * 5)))
    _, first = played(experiment, 1)[0]
    assert dict(first.late) == {0: OFFLINE}
    assert (first.cohort.tolist(), first.end_s) == ([2, 3], 4.5)
    assert first.parts_of(0) is not None


def test_a_place_for_which_nobody_is_free_waits_for_the_next_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three clients, of whom one is offline from the start: the last place is filled when client 0 has arrived."""
    fleet = Given((1.0, 10.0, 2.0), (99.0, 99.0, 0.0))
    monkeypatch.setattr(buffered, "_drawn", lowest)
    (_, first), (_, second) = played(experiment_of(fleet, buffer=2, concurrency=2), 2)
    assert (first.cohort.tolist(), first.end_s) == ([0, 1], 10.0)
    assert (second.cohort.tolist(), second.end_s, second.under_way["asked"]) == ([0, 1], 20.0, 4)


def test_a_run_gives_up_when_nobody_can_be_asked_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered, "LONGEST_S", 600.0)
    experiment = experiment_of(Given(SLOW_ONE, (0.0,) * 6), buffer=2, concurrency=2)
    with pytest.raises(
        RunError, match=r"the buffer holds 0 of 2 updates, .* for 0:11:00 of .*reduce population\.buffer"
    ):
        await_buffer(experiment, RunState(0, np.zeros(3), None, {}, (), clock_s=1.0))


@pytest.mark.parametrize("tries", [3, 256], ids=["at random, then listed", "listed"])
def test_whoever_is_drawn_is_free_online_and_holds_samples(
    tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 40 clients 10 hold none and every third of the others is offline; nobody is under way twice, or twice in a buffer."""
    monkeypatch.setattr(buffered, "TRIES", tries)
    until = tuple(0.0 if client % 3 == 0 else 1e9 for client in range(40))
    takes = tuple(1.0 + (7 * client) % 11 for client in range(40))
    experiment = experiment_of(Given(takes, until), buffer=3, concurrency=8)
    experiment = replace(experiment, sizes=np.array([client < 30 for client in range(40)], np.int64))
    seen: set[int] = set()
    for _, arrivals in played(experiment, 30):
        here = arrivals.cohort.tolist()
        assert len(set(here)) == 3
        under_way = arrivals.under_way["clients"].tolist()
        assert len({*under_way}) == len(under_way) == 7
        seen |= {*here, *under_way}
    assert seen == {client for client in range(30) if client % 3}


def test_discounts() -> None:
    behind = np.array([0, 1, 3, 8])
    np.testing.assert_allclose(discounts(ServerConfig(), behind), 1 / np.sqrt([1, 2, 4, 9]))
    np.testing.assert_allclose(
        discounts(ServerConfig(staleness_exponent=2), behind), [1, 1 / 4, 1 / 16, 1 / 81]
    )
    assert discounts(ServerConfig(staleness="constant"), behind).tolist() == [1] * 4


def test_buffers_are_discounted_and_integer_counters_are_not() -> None:
    layout = Layout.of(SmallNet("batchnorm").build())
    counters = layout.dim + layout.counter_columns()
    assert len(counters)
    rows = np.random.default_rng(0).standard_normal((3, layout.num_columns)).astype(np.float32)
    updates = Updates.from_array(rows, InProcessBackend(), layout=layout, rows_per_block=2)
    expected = rows * np.array([[1], [0.5], [0.25]], np.float32)
    expected[:, counters] = rows[:, counters]
    found = scaled(updates, np.array([1.0, 0.5, 0.25])).to_array(buffers=True)
    np.testing.assert_array_equal(found, expected)


def test_the_global_model_moves_by_fedbuffs_formula(tiny: dict[str, Any], tmp_path: Path) -> None:
    """w + lr / K sum_i (1 + tau_i)^(-1/2) Delta_i, Delta_i trained from the model that client i was sent, at its rate."""
    rate, decay = 0.1, 0.5
    config = {
        **tiny,
        "rounds": 5,
        "population": {**ASYNCHRONOUS, "malicious": 0, "buffer": 3},
        "attack": None,
        "defense": {"name": "fedavg", "uniform": True},
        "server": {"lr": 0.7},
        "training": {"optimizer": {"name": "sgd", "lr": rate}, "lr_decay": decay, "clients_per_stack": 1},
        "checkpoint": {"every": 1, "keep": 9},
    }
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    experiment = compose(result.config)
    saved = checkpoint.checkpoints(result.path / "checkpoints")
    models: list[Any] = [experiment.initial, *(checkpoint.load(path)["global_vector"] for path in saved)]
    recipes = [replace(experiment.setup.recipe, learning_rate=rate * decay**version) for version in range(5)]
    setups = [replace(experiment.setup, recipe=recipe, rates=LearningRates()) for recipe in recipes]
    hosts = [ClientHost(setup, *experiment.arrays) for setup in setups]
    stale = set()
    for number in range(5):
        moved = np.zeros_like(models[0], np.float64)
        for row in (row for row in clients(result) if row["round"] == number):
            version = number - row["staleness"]
            tile, *_ = hosts[version].train(RoundOrder(number, 0), [row["client"]], models[version], None)
            moved += tile[0].astype(np.float64) / np.sqrt(1 + row["staleness"])
            stale.add(row["staleness"])
        np.testing.assert_allclose(models[number + 1] - models[number], 0.7 * moved / 3, rtol=1e-4, atol=1e-7)
    assert len(stale) > 2
    for row in result.rounds:
        behind = [client["staleness"] for client in clients(result) if client["round"] == row["round"]]
        assert (row["staleness_mean"], row["staleness_max"]) == (pytest.approx(np.mean(behind)), max(behind))


def run(config: dict[str, Any], out: Path, name: str, **changes: Any) -> RunResult:
    settings = {
        **config,
        "rounds": 4,
        "population": ASYNCHRONOUS,
        "attack": "alie",
        "defense": "multi_krum",
        **changes,
    }
    return raysim.run(settings, name=name, out=out, backend="inprocess")


def test_a_resumed_run_goes_on_with_those_under_way(tiny: dict[str, Any], tmp_path: Path) -> None:
    whole = run(tiny, tmp_path, "whole")
    run(tiny, tmp_path, "part", rounds=2)
    resumed = raysim.resume(tmp_path / "part", rounds=4, backend="inprocess")
    assert (resumed.digest, clients(resumed)) == (whole.digest, clients(whole))
    assert max(row["staleness"] for row in clients(whole) if row["round"] >= 2) > 0


@dataclass(frozen=True)
class Longest(Defense):
    """Flags the longest row; its lengths may be taken as rows arrive."""

    judges_buffers = True

    def row_stage(self, ctx: Context) -> RowStage[float]:
        return RowStage("lengths", _lengths, key=("lengths",))

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        lengths = np.array(updates.map_row_stage(self.row_stage(ctx)))
        flagged = np.arange(updates.num_clients) == np.argmax(lengths)
        aggregate, weights = accepted_mean(updates, flagged)
        return Verdict(aggregate, weights, lengths, flagged), state


def _lengths(rows: np.ndarray, tiles: Sequence[np.ndarray]) -> list[float]:
    return [float(np.linalg.norm(np.concatenate([tile[row] for tile in tiles]))) for row in rows]


@pytest.mark.parametrize("staleness", ["constant", "polynomial"])
def test_work_on_rows_begins_as_they_arrive_unless_they_will_be_discounted(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, staleness: str
) -> None:
    begun, plain = [], simulation.begin_ahead
    monkeypatch.setattr(simulation, "begin_ahead", lambda *given: begun.append(given) or plain(*given))
    changes = {"defense": f"{__name__}:Longest", "server": {"staleness": staleness}, "attack": None}
    after, ahead = (
        run(tiny, tmp_path, f"{pipeline}", resources={"pipeline": pipeline}, **changes)
        for pipeline in (False, True)
    )
    assert (ahead.digest, clients(ahead)) == (after.digest, clients(after))
    assert bool(begun) == (staleness == "constant")


@pytest.mark.ray
def test_ray_pipelined_with_any_actors_and_resumed_gives_the_same_bytes(
    ray_cluster: None, tiny: dict[str, Any], tmp_path: Path
) -> None:
    here = run(tiny, tmp_path, "here")
    resources = {"clients_per_actor": 2, "tile_bytes": 4096, "pipeline": True}
    config = {**here.config.to_mapping(), "rounds": 2, "resources": resources}
    raysim.run(config, name="there", out=tmp_path)
    there = raysim.resume(tmp_path / "there", rounds=4)
    assert there.digest == here.digest
    assert (there.path / "clients.parquet").read_bytes() == (here.path / "clients.parquet").read_bytes()
    clock = ("virtual_start_s", "virtual_s")
    assert [[row[key] for key in clock] for row in there.rounds] == [
        [row[key] for key in clock] for row in here.rounds
    ]


def test_a_recorded_run_is_replayed_on_what_was_judged(tiny: dict[str, Any], tmp_path: Path) -> None:
    live = run(tiny, tmp_path, "live", record={"updates": True})
    [again] = replay(live.path, [Component(name="multi_krum")])
    kept = ["client", "score", "flagged", "weight", "staleness"]
    assert [{key: row[key] for key in kept} for row in clients(RunResult(again))] == [
        {key: row[key] for key in kept} for row in clients(live)
    ]
    with pytest.raises(ConfigError, match=r"population\.buffer: must be null.* with Flame"):
        replay(live.path, [Component(name="flame")])


def test_dropouts_take_a_place_in_the_buffer_and_may_leave_no_quorum(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """With all four updates of a buffer wanted, the model stays in rounds with an attacker's NaN; versions go on."""
    quorum = {**ASYNCHRONOUS, "min_cohort": 4}
    changes = {"attack": "tests.faulty_methods:BadUpload", "checkpoint": {"every": 1, "keep": 9}}
    result = run(tiny, tmp_path, "run", population=quorum, defense="median", **changes)
    saved = checkpoint.checkpoints(result.path / "checkpoints")
    models: list[Any] = [
        compose(result.config).initial,
        *(checkpoint.load(path)["global_vector"] for path in saved),
    ]
    stayed = [np.array_equal(before, after) for before, after in pairwise(models)]
    assert stayed == [row["malicious"] > 0 for row in result.rounds]
    assert {*stayed} == {True, False}
    assert {row["clients"] for row in result.rounds} == {4}
    assert {row["reason"].split(":")[0] for row in clients(result)} == {"", "non-finite", "no quorum"}


def test_the_plan_says_how_many_older_models_a_run_holds_at_most() -> None:
    honest = {**ASYNCHRONOUS, "malicious": 0}
    for population, server, most in (
        (honest, {}, 6), (ASYNCHRONOUS, {}, 12), (honest, {"max_staleness": 2}, 2), (ASYNCHRONOUS, {"max_staleness": 2}, 3),
    ):  # fmt: skip
        config = ExperimentConfig(
            population=population, server=server, data={"name": "digits", "limit": 200},
            attack={"name": "noise"} if population is ASYNCHRONOUS else None,
        )  # fmt: skip
        plan = make_plan(compose(config), Capacity(), 2**34, calibrate=False)
        assert plan.older_models == most
        assert dict(lines(config, plan))["older global models"].startswith(f"at most {most}, ")


def test_synchronous_runs_have_no_staleness(tiny: dict[str, Any], tmp_path: Path) -> None:
    result = raysim.run(tiny, name="run", out=tmp_path, backend="inprocess")
    assert {row["staleness"] for row in clients(result)} == {None}
    assert {row["staleness_max"] for row in result.rounds} == {None}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no devices": (
        {"population": {"devices": None}},
        r"population\.buffer: needs population\.devices.*devices=lognormal",
    ),
    "no concurrency": (
        {"population": {"concurrency": None}},
        r"population\.concurrency: must be given .*nearest valid: 4",
    ),
    "cohort": (
        {"population": {"cohort": 5}},
        r"population\.cohort: must be left out: population\.buffer .*'null'",
    ),
    "deadline": (
        {"population": {"deadline_s": 9}},
        r"population\.deadline_s: must be left out: .*server\.max_staleness",
    ),
    "over-selection": (
        {"population": {"over_selection": 1.5}},
        r"population\.over_selection: must be left out: .*: 1\.0",
    ),
    "too many under way": (
        {"population": {"concurrency": 10}},
        r"population\.concurrency: must leave .*nearest valid: 9",
    ),
    "buffer": (
        {"population": {"buffer": 13}},
        r"population\.buffer: must not exceed the population .*nearest valid: 12",
    ),
    "quorum": (
        {"population": {"min_cohort": 5}},
        r"population\.min_cohort: must not exceed .*nearest valid: 4",
    ),
    "synchronous": (
        {"population": {"buffer": None}},
        r"population\.concurrency: needs population\.buffer.*'null'",
    ),
    "discount": (
        {"population": {"buffer": None, "concurrency": None}, "server": {"staleness": "constant"}},
        r"server\.staleness: needs population\.buffer.*'polynomial'",
    ),
    "limit": (
        {"population": {"buffer": None, "concurrency": None}, "server": {"max_staleness": 3}},
        r"server\.max_staleness: needs population\.buffer",
    ),
    "participation": (
        {"attack": {"name": "noise", "schedule": {"participation": "frequency"}}},
        r"attack\.schedule\.participation: must be pool .*'pool'",
    ),
    "defense": (
        {"defense": "fldetector"},
        r"population\.buffer: must be null, .*FLDetector.*: it predicts .*'null'",
    ),
    "a chain": (
        {"defense": ["clip_norm", "layercam_krum"]},
        r"population\.buffer: must be null, .*LayerCAMKrum.*heat maps",
    ),
    "own": (
        {"defense": "tests.stateful_methods:Reputation"},
        r"population\.buffer: .*Reputation.*judges_buffers = True",
    ),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused_before_the_start(changes: dict[str, Any], said: str) -> None:
    population = {**ASYNCHRONOUS, **changes.get("population", {})}
    config = {"data": {"name": "digits", "limit": 200}, "server_data": {"samples": 20}, **changes}
    with pytest.raises(ConfigError, match=said):
        compose(ExperimentConfig(**{**config, "population": population}))


def test_clients_without_samples_do_not_count_as_those_that_can_be_asked() -> None:
    config = ExperimentConfig(population={**ASYNCHRONOUS, "clients": 40, "concurrency": 30})
    for holding, said in (
        (31, r"population\.concurrency: must leave .*: 31 hold enough samples to train.* nearest valid: 28"),
        (3, r"population\.buffer: must not exceed 3, .* nearest valid: 3"),
    ):
        held = np.append(np.arange(holding + 1), np.full(40 - holding, holding))
        some = Partition(np.arange(holding), held)
        with pytest.raises(ConfigError, match=said):
            check_asynchronous(config, some, 1)
