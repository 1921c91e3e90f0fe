"""Pipelined runs on Ray: the same bytes, failures and kills included."""

from __future__ import annotations

import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import raysim
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.simulation import initial_state, rounds, start


def results(result):
    return result.digest, *((result.path / f"{name}.parquet").read_bytes() for name in ("rounds", "clients"))


def pipelined(config, clients_per_actor=10):
    """On one actor, unless more are the point: every process that imports torch costs a second."""
    return {**config, "resources": {"clients_per_actor": clients_per_actor, "pipeline": True}}


def spans_of(result, stage, round, whole):
    spans = result.table("spans").to_pylist()
    return [
        span for span in spans if (span["stage"], span["round"], span["task"] == -1) == (stage, round, whole)
    ]


@pytest.mark.ray
def test_crafted_rows_and_evaluation_beside_training_while_an_actor_dies(ray_cluster, tiny, tmp_path):
    """Same bytes; maps of crafted rows are a stage of their own; every round has the spans of its evaluation, and the actor
    that died while the round before was evaluated is replaced."""
    dies = {"name": "tests.faulty_methods:DieWhileTraining", "clients": 1}
    config = {**tiny, "defense": "layercam_ae", "attack": [{"name": "noise"}, dies]}
    expected = results(raysim.run(config, name="inprocess", out=tmp_path, backend="inprocess"))
    dies["marker"] = str(tmp_path / "died")
    other = raysim.run(pipelined(config, 5), name="ray", out=tmp_path)
    assert (tmp_path / "died").exists()
    assert results(other) == expected
    assert not list(other.path.rglob("*.tensor"))
    for number in range(3):
        assert len(spans_of(other, "cam", number, whole=True)) == 2
        assert len(spans_of(other, "evaluate", number, whole=True)) == 1
        assert spans_of(other, "evaluate", number, whole=False)


@pytest.mark.ray
def test_rows_with_nan_and_recorded_rounds_on_ray(ray_cluster, tiny, tmp_path):
    attack = {"name": "tests.faulty_methods:BadUpload"}
    kept = {"record": {"updates": True, "every": 2}, "evaluation": {"every": 2}}
    config = {**tiny, **kept, "defense": "flare", "attack": attack}
    expected = results(raysim.run(config, name="inprocess", out=tmp_path, backend="inprocess"))
    other = raysim.run(pipelined(config), name="ray", out=tmp_path)
    assert results(other) == expected
    assert {path.parent.name for path in other.path.rglob("*.tensor")} == {"round-000000", "round-000002"}


@pytest.mark.ray
def test_a_server_that_dies_goes_on_and_a_round_is_kept_when_the_next_one_fails(ray_cluster, tiny, tmp_path):
    """The server dies in round 2, goes on from its checkpoint, and fails for good in round 3: three rounds are there, in the
    bytes of a run that failed only then."""
    fails = {"name": "tests.faulty_methods:BadUpload", "what": "raise", "schedule": {"start": 3}}
    dies = {"name": "tests.faulty_methods:DieWhileJudging", "round": 2}
    config = {**tiny, "rounds": 4, "attack": fails, "defense": dies}
    tables = []
    for name, backend in (("calm", "inprocess"), ("killed", "ray")):
        with pytest.raises(raysim.RunError, match=r"round 3, stage train, client 8"):
            raysim.run(pipelined(config), name=name, out=tmp_path, backend=backend)
        left = raysim.runs.runner.RunResult(tmp_path / name)
        assert [row["round"] for row in left.rounds] == [0, 1, 2]
        assert all(np.isfinite(row["main_accuracy"]) for row in left.rounds)
        assert sorted(path.name for path in (left.path / "checkpoints").iterdir())[-1].endswith("3")
        tables.append([(left.path / f"{table}.parquet").read_bytes() for table in ("rounds", "clients")])
        dies["marker"] = str(tmp_path / "died")
    assert (tmp_path / "died").exists()
    assert tables[0] == tables[1]


@pytest.mark.ray
def test_tasks_that_fail_when_begun_have_no_answer(ray_cluster):
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    backend = RayBackend(ClientActors(0), workers=2)
    held = backend.put(np.arange(3.0))
    begun = [backend.begin("cut", number, np.array_split, held, parts) for number, parts in enumerate((3, 0))]
    good, failed = backend.finish("cut", begun)
    assert [part.tolist() for part in good] == [[0.0], [1.0], [2.0]]
    assert failed is None
    assert [(span.stage, span.task) for span in backend.telemetry.drain()] == [("cut", -1), ("cut", 0)]


@pytest.mark.ray
def test_two_threads_that_miss_one_actor_replace_it_once(ray_cluster, tmp_path, monkeypatch):
    """The second call waits in the actor's queue when the first kills it: both fail, one replaces, both are done."""
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_actors import Crew
    from raysim.backends.ray_backend import RayBackend

    marker = str(tmp_path / "died")

    class Host:
        def die(self) -> str:
            import os
            import time

            if not os.path.exists(marker):
                time.sleep(0.3)
                open(marker, "w").close()
                os._exit(1)
            return "dead once"

        def answer(self) -> str:
            return "alive"

    starts: list[int] = []

    start = Crew._start

    def counted(crew, place, nodes):
        starts.append(place)
        return start(crew, place, nodes)

    monkeypatch.setattr(Crew, "_start", counted)
    backend = RayBackend(ClientActors(1), workers=1)
    try:
        backend.start_clients(Host, ())
        other = backend.apart()
        with ThreadPoolExecutor(1) as thread:
            first = thread.submit(other.call_clients, "train", "die", [()])
            time.sleep(0.1)
            assert backend.call_clients("evaluate", "answer", [()]) == ["alive"]
            assert first.result() == ["dead once"]
        assert starts == [0, 0]
        assert {span.stage for span in backend.telemetry.drain()} == {"evaluate"}
        assert {span.stage for span in other.telemetry.drain()} == {"train"}
    finally:
        backend.close()


# -- the order of things, without Ray ---------------------------------------------------------------------


class TwoThreads(InProcessBackend):
    """Evaluates in a second thread, by itself; what it evaluated, and in which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluated: list[tuple[str, int]] = []
        self.trained: list[str] = []

    def apart(self):
        other = TwoThreads()
        other._host, other.evaluated = self._host, self.evaluated
        return other

    def call_clients(self, stage, method, items, **options):
        name = threading.current_thread().name
        if stage == "evaluate":
            self.evaluated.append((name, len(items)))
        else:
            self.trained.append(name)
        return super().call_clients(stage, method, items, **options)


def played(tiny, backend, **changes):
    values = {**tiny, "resources": {"pipeline": True}, **changes}
    experiment = compose(ExperimentConfig.from_mapping(values))
    start(experiment, backend)
    return rounds(experiment, backend, initial_state(experiment, backend))


def test_evaluation_is_another_threads_and_rows_are_let_go(tiny):
    backend = TwoThreads()
    main = threading.current_thread().name
    kept = list(played(tiny, backend))
    assert [record.number for _, record in kept] == [0, 1, 2]
    assert [state.round for state, _ in kept] == [1, 2, 3]
    assert backend.trained == [main] * 3
    assert len(backend.evaluated) == 3
    assert all(name != main for name, _ in backend.evaluated)
    assert all(record.judged.updates.blocks == () for _, record in kept)
    assert all(record.judged.updates.num_clients == 10 for _, record in kept)
    kept = list(played(tiny, TwoThreads(), record={"updates": True, "every": 2}))
    assert [bool(record.judged.updates.blocks) for _, record in kept] == [True, False, True]


class WatchesRows(TwoThreads):
    """Looks, whenever hosts are called, for tiles of rows that are still held; apart: whether it evaluates aside."""

    def __init__(self, aside: bool) -> None:
        super().__init__()
        self.aside, self.tiles, self.held = aside, [], []

    def apart(self):
        return super().apart() if self.aside else None

    def call_clients(self, stage, method, items, **options):
        self.held.append((stage, sum(tile() is not None for tile in self.tiles)))
        answers = super().call_clients(stage, method, items, **options)
        if stage == "train":
            self.tiles += [weakref.ref(tile.value) for tiles, _ in answers for tile in tiles]
        return answers


@pytest.mark.parametrize("defense", ["krum", ["clip_norm", "median"]])
@pytest.mark.parametrize("aside", [False, True])
def test_rows_are_given_back_before_the_next_round_trains(tiny, aside, defense):
    """And, without a second thread, before the round is evaluated; the caller holds on to every record."""
    backend = WatchesRows(aside)
    kept = list(played(tiny, backend, defense=defense))
    assert len(kept) == 3
    assert len(backend.tiles) > 3
    stages = ["train"] * 3 if aside else ["train", "evaluate"] * 3
    assert backend.held == [(stage, 0) for stage in stages]


def test_rows_that_were_recorded_are_given_back_too(tiny, tmp_path, monkeypatch):
    backend = WatchesRows(aside=False)
    monkeypatch.setattr("raysim.runs.runner.InProcessBackend", lambda *given, **options: backend)
    raysim.run({**tiny, "record": {"updates": True}}, name="run", out=tmp_path, backend="inprocess")
    assert len(list((tmp_path / "run" / "updates").iterdir())) >= 3
    assert [held for stage, held in backend.held if stage == "train"] == [0, 0, 0]
    assert all(held for stage, held in backend.held if stage == "evaluate")


def test_a_failure_comes_after_the_round_before_it(tiny):
    attack = {"name": "tests.faulty_methods:BadUpload", "what": "raise", "schedule": {"start": 1}}
    going = played(tiny, TwoThreads(), attack=attack)
    state, record = next(going)
    assert (state.round, record.number) == (1, 0)
    assert {span.stage for span in record.spans} >= {"train", "evaluate"}
    with pytest.raises(raysim.RunError, match=r"round 1, stage train, client 8"):
        next(going)


def test_a_failed_evaluation_names_its_own_round(tiny, monkeypatch):
    def fail(self, stage, method, items, **options):
        if stage == "evaluate":
            return [None] * len(items)
        return InProcessBackend.call_clients(self, stage, method, items, **options)

    monkeypatch.setattr(TwoThreads, "call_clients", fail)
    with pytest.raises(raysim.RunError, match=r"round 0, stage evaluate"):
        next(played(tiny, TwoThreads()))


def test_a_run_resumed_from_any_checkpoint_ends_alike(tiny, tmp_path):
    config = {**tiny, "defense": "layercam_ae", "resources": {"pipeline": True}}
    whole = raysim.run(config, name="whole", out=tmp_path, backend="inprocess")
    for done in (1, 2):
        left = shutil.copytree(whole.path, tmp_path / f"after {done}")
        for checkpoint in sorted((left / "checkpoints").iterdir())[done:]:
            shutil.rmtree(checkpoint) if checkpoint.is_dir() else checkpoint.unlink()
        assert results(raysim.resume(left, backend="inprocess")) == results(whole)
