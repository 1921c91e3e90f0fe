"""Runs and what they leave; runs that were killed, between rounds and within one, and went on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import numpy as np
import pytest
import yaml

import raysim
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RecordError, RunError
from raysim.runs import checkpoint, naming
from raysim.runs.directory import COLUMNS, RunDirectory, digest, schema
from raysim.runs.naming import claimed
from raysim.runs.result import RunResult
from raysim.runs.resuming import configuration_digest
from tests import federations

KEPT = {"checkpoint": {"every": 2, "keep": 2}, "record": {"updates": True}}
STATEFUL = {**federations.remembering(), "rounds": 5, **KEPT}
"""Checkpoints after rounds 2, 4 and 5."""

KILLED = {
    "within": {"stage": "gram", "round": 3},
    "between": {"stage": "", "round": 2},
    "early": {"stage": "train", "round": 1},
    "saving": {"stage": "checkpoint", "round": 4},
}
"""Where a run is killed: at the news of a stage, or (no stage) of the end of a round; or while it writes a checkpoint."""

FINISHED = {"within": 3, "between": 3, "early": 1, "saving": 4}


def run(config, path, **options):
    return raysim.run(config, name=path.name, out=path.parent, backend="inprocess", **options)


def files(path, *patterns):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for pattern in patterns
        for file in sorted(path.rglob(pattern))
        if file.is_file()
    }


RESULTS = ("clients.parquet", "rounds.parquet", "digest.txt", "*.npy", "*.tensor", "config.yaml")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return run(STATEFUL, tmp_path_factory.mktemp("calm") / "run")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """One run per entry of KILLED, each in a process that kills itself there."""
    script = textwrap.dedent("""
        import json, os, signal, sys
        import raysim, raysim.runs.checkpoint, raysim.runs.runner

        config, killed, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
        raysim.run({**config, "rounds": 1}, name="imports", out=out, backend="inprocess")
        for name, place in killed.items():
            child = os.fork()
            if child == 0:
                def observe(event):
                    if (event.stage, event.round) == (place["stage"], place["round"]):
                        os.kill(os.getpid(), signal.SIGKILL)
                def sync(path):
                    if place["stage"] == "checkpoint" and f"{place['round']:06d}.tmp" in str(path):
                        os.kill(os.getpid(), signal.SIGKILL)
                raysim.runs.checkpoint.sync = sync
                raysim.run(config, name=name, out=out, backend="inprocess", observe=observe)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (name, status)
    """)
    out = tmp_path_factory.mktemp("killed")
    arguments = [json.dumps(STATEFUL), json.dumps(KILLED), str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # a forked process has no thread pools
    subprocess.run([sys.executable, "-c", script, *arguments], env=one_thread, check=True, timeout=120)
    return out


@pytest.fixture
def left(killed, tmp_path, request):
    """A copy of what the killed run left."""
    return shutil.copytree(killed / request.param, tmp_path / "run")


every_kill = pytest.mark.parametrize("left", KILLED, indirect=True)


# -- killed and resumed ---------------------------------------------------------------------------------


@pytest.mark.slow
@every_kill
def test_a_killed_run_goes_on_as_if_it_had_not_been(left, undisturbed):
    result = raysim.resume(left, backend="inprocess")
    assert result.digest == undisturbed.digest
    expected = files(undisturbed.path, *RESULTS)
    assert len(expected) > 20
    assert files(left, *RESULTS) == expected
    spans = result.table("spans").to_pylist()
    assert {span["round"] for span in spans} == set(range(5))
    assert not (left / "parts").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("left", "whole"), FINISHED.items(), indirect=["left"])
def test_finished_rounds_of_a_killed_run_can_be_read(left, whole, undisturbed):
    directory = RunDirectory(left)
    for _ in range(2):
        for table in COLUMNS:
            assert sorted(set(directory.read(table)["round"].to_pylist())) == list(range(whole))
        rows = [row for row in undisturbed.table("clients").to_pylist() if row["round"] < whole]
        assert directory.read("clients").to_pylist() == rows
        assert len(RunResult(left).rounds) == whole
        directory.finish()
    assert not (left / "parts").exists()


@pytest.mark.slow
@every_kill
def test_a_killed_run_that_was_put_together_can_still_be_resumed(left, undisturbed):
    RunDirectory(left).finish()
    raysim.resume(left, backend="inprocess")
    assert files(left, *RESULTS) == files(undisturbed.path, *RESULTS)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_yet_has_no_model(killed):
    with pytest.raises(RecordError, match="has no checkpoint yet"):
        _ = RunResult(killed / "early").digest


def test_a_run_that_failed_goes_on_once_the_cause_is_gone(tmp_path):
    marker = tmp_path / "repaired"
    failing = {"name": STATEFUL["defense"], "fail_in": 3, "marker": str(marker)}
    with pytest.raises(RunError, match="round 3, stage judge: Reputation: ArithmeticError"):
        run({**STATEFUL, "defense": failing}, tmp_path / "failed")
    assert len(RunResult(tmp_path / "failed").rounds) == 3
    assert not (tmp_path / "failed" / "parts").exists()
    marker.touch()
    expected = run({**STATEFUL, "defense": failing}, tmp_path / "calm")
    raysim.resume(tmp_path / "failed", backend="inprocess")
    assert files(tmp_path / "failed", *RESULTS) == files(expected.path, *RESULTS)


def test_resuming_a_finished_run_changes_nothing(undisturbed, tmp_path):
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    before = files(path, "*")
    news = []
    result = raysim.resume(path, backend="inprocess", observe=news.append)
    assert files(path, "*") == before
    assert result.digest == undisturbed.digest
    assert [event for event in news if event.row] == []


def test_the_state_matters(undisturbed, tmp_path):
    """The check above would not notice a forgotten state if the methods did not depend on it."""
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    shutil.rmtree(path / "checkpoints" / "round-000005")
    saved = checkpoint.load(path / "checkpoints" / "round-000004")
    for change in (
        {"defense": {**saved["defense"], "factor": np.float64(1.0)}},
        {"defense": {**saved["defense"], "seen": {}}},
        {"attacks": [{**saved["attacks"][0], "way": np.zeros_like(saved["attacks"][0]["way"])}]},
        {"previous_vector": saved["global_vector"]},
    ):
        belongs_to = configuration_digest(undisturbed.config)
        checkpoint.save(path / "checkpoints", 4, {**saved, **change}, keep=1, configuration=belongs_to)
        assert raysim.resume(path, backend="inprocess").digest != undisturbed.digest


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused_and_the_rounds_stay(undisturbed, tmp_path, name):
    path = shutil.copytree(undisturbed.path, tmp_path / "run")
    damaged = path / "checkpoints" / "round-000005" / name
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(RecordError, match=r"round-000005 is damaged"):
        raysim.resume(path, backend="inprocess")
    assert len(RunResult(path).rounds) == 5


def test_what_holds_no_run_cannot_be_resumed(tmp_path):
    with pytest.raises(RecordError, match=r"config\.yaml is missing"):
        raysim.resume(tmp_path / "nowhere", backend="inprocess")
    assert not (tmp_path / "nowhere").exists()


# -- runs and their results -----------------------------------------------------------------------------


def test_what_a_run_leaves_behind(undisturbed):
    path = undisturbed.path
    names = {item.name for item in path.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "rounds.parquet", "clients.parquet", "spans.parquet", "digest.txt",
        "checkpoints", "artifacts", "updates", "layout.json", "began.json",
    }  # fmt: skip
    for table in COLUMNS:
        assert undisturbed.table(table).schema.equals(schema(table))
    assert [row["round"] for row in undisturbed.rounds] == list(range(5))
    assert undisturbed.digest == digest(undisturbed.global_vector)
    assert (path / "digest.txt").read_text().split()[0] == undisturbed.digest
    about = json.loads((path / "environment.json").read_text())
    assert (about["backend"], about["seed"]) == ("inprocess", 0)


def test_the_configuration_left_behind_is_resolved_and_runs_again_to_the_same_bytes(undisturbed, tmp_path):
    written = yaml.safe_load((undisturbed.path / "config.yaml").read_text())
    assert written["population"]["cohort"] == 7
    assert isinstance(written["resources"]["tile_bytes"], int)
    assert written["resources"]["column_shards"] == 1
    assert written["resources"]["device"] in ("cpu", "cuda")
    assert written["defense"]["fail_in"] == -1
    again = run(undisturbed.config, tmp_path / "again")
    assert files(again.path, *RESULTS) == files(undisturbed.path, *RESULTS)


def test_a_mapping_and_a_configuration_are_the_same_request(tiny, tmp_path):
    short = {**tiny, "rounds": 1}
    first = run(short, tmp_path / "a")
    second = raysim.run(
        ExperimentConfig.from_mapping(short), name="b", out=str(tmp_path), backend="inprocess"
    )
    assert first.digest == second.digest
    assert second.path == tmp_path / "b"


def test_a_run_without_a_name_is_named_by_the_time(tiny, tmp_path):
    result = raysim.run({**tiny, "rounds": 1}, out=tmp_path, backend="inprocess")
    assert result.path.parent == tmp_path
    assert len(result.path.name) == len("20260101-120000")


def test_runs_begun_in_one_second_get_names_of_their_own(tiny, tmp_path, monkeypatch):
    class Clock:
        @staticmethod
        def now():
            return datetime(2026, 1, 1, 12)

    monkeypatch.setattr(naming, "datetime", Clock)
    short = {**tiny, "rounds": 1}
    paths = [raysim.run(short, out=tmp_path, backend="inprocess").path for _ in range(3)]
    assert [path.name for path in paths] == ["20260101-120000", "20260101-120000-2", "20260101-120000-3"]


def test_no_two_of_many_callers_at_once_get_the_same_folder(tmp_path):
    at_once = threading.Barrier(8)

    def claim(_):
        at_once.wait()
        with claimed(tmp_path / "runs", None) as path:
            (path / "kept").touch()
            return path

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(claim, range(8)))
    assert sorted(set(paths)) == sorted(paths) == sorted((tmp_path / "runs").iterdir())


def test_one_of_many_callers_at_once_starts_the_run_of_a_name(tmp_path):
    at_once = threading.Barrier(8)

    def begin(number):
        at_once.wait()
        try:
            RunDirectory(tmp_path / "run").start(f"seed: {number}\n", {"seed": number})
        except RecordError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        (winner,) = [number for number in pool.map(begin, range(8)) if number is not None]
    assert (tmp_path / "run" / "config.yaml").read_text() == f"seed: {winner}\n"
    assert json.loads((tmp_path / "run" / "environment.json").read_text()) == {"seed": winner}
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_folder_whose_name_the_locale_cannot_read_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match="PYTHONUTF8=1"):
        raysim.run(tiny, name="k", out=tmp_path / "\udcc3\udcbc", backend="inprocess")
    assert list(tmp_path.iterdir()) == []


def test_a_refused_request_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(ConfigError, match="num_byzantine"):
        raysim.run(
            {**tiny, "defense": {"name": "krum", "num_byzantine": 9}},
            out=tmp_path / "a" / "b",
            backend="inprocess",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_use_is_refused_and_the_run_stays(undisturbed):
    before = files(undisturbed.path, "*")
    with pytest.raises(ConfigError, match=r"^name: .* already holds a run; resume it or choose another name"):
        run(STATEFUL, undisturbed.path)
    assert files(undisturbed.path, "*") == before


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"backend": "rey"}, "backend"),
        ({"backend": "inprocess", "address": "localhost:1"}, "address"),
        ({"backend": "inprocess", "config": {"resources": {"client_cpus": 0.1}}}, "resources"),
        ({"backend": "inprocess", "config": {"defense": "krumm"}}, "defense.name"),
        ({"backend": "inprocess", "config": {"rounds": 0}}, "rounds"),
    ],
)
def test_what_is_refused_leaves_no_folder(tiny, tmp_path, options, key):
    config = {**tiny, **options.pop("config", {})}
    with pytest.raises(ConfigError) as caught:
        raysim.run(config, name="refused", out=tmp_path, **options)
    assert caught.value.key == key
    assert list(tmp_path.iterdir()) == []
