"""Where a run goes on: what is refused and what is offered instead, and runs that are extended."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

import raysim
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RecordError
from raysim.runs import checkpoint
from raysim.runs.directory import COLUMNS, RunDirectory
from raysim.runs.resuming import binding, continuation
from tests import federations

CONFIG = {**federations.remembering(), "rounds": 4}


def run(path, **changes):
    config = {**CONFIG, **changes}
    return raysim.run(config, name=path.name, out=path.parent, backend="inprocess")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(tmp_path_factory.mktemp("calm") / "run").path


@pytest.fixture
def path(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def results(path):
    names = ("rounds.parquet", "clients.parquet", "digest.txt", "config.yaml")
    return {name: (path / name).read_bytes() for name in names}


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def refused(path, kind, match, **options):
    before = contents(path)
    with pytest.raises(kind, match=match):
        raysim.resume(path, backend="inprocess", **options)
    assert contents(path) == before, "a refusal changes nothing"


# -- checkpoints ----------------------------------------------------------------------------------------


def test_one_flipped_bit_is_refused_and_the_whole_one_before_it_is_offered(path, finished):
    for number in (4, 3):
        flip_a_bit(path / f"checkpoints/round-00000{number}/arrays.safetensors")
    refused(
        path,
        RecordError,
        r"round-000004 is damaged: .*arrays.safetensors.*; the one after round 2 is whole: .*resume .* --from 2",
    )
    refused(path, RecordError, r"round-000003 is damaged: .*; the one after round 2 is whole", from_round=3)
    raysim.resume(path, backend="inprocess", from_round=2)
    assert results(path) == results(finished)
    assert [item.name[-1] for item in checkpoint.checkpoints(path / "checkpoints")] == ["2", "3", "4"]


def test_without_a_whole_one_all_rounds_can_be_played_again(path, finished):
    for saved in checkpoint.checkpoints(path / "checkpoints"):
        (saved / "manifest.json").unlink()
    refused(path, RecordError, r"round-000004 is damaged: .*; no earlier one is whole; .* --from 0")
    raysim.resume(path, backend="inprocess", from_round=0)
    assert results(path) == results(finished)


def test_a_checkpoint_from_elsewhere_is_foreign(path, tmp_path):
    other = run(tmp_path / "other", seed=1).path
    shutil.rmtree(path / "checkpoints/round-000004")
    shutil.copytree(other / "checkpoints/round-000004", path / "checkpoints/round-000004")
    refused(path, RecordError, r"round-000004 is foreign: .*; the one after round 3 is whole")


def test_a_checkpoint_that_is_not_there_is_refused(path):
    refused(path, ConfigError, r"^--from: must be 0 or the number of a checkpoint: 0, 2, 3, 4", from_round=1)


# -- the configuration ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "key", "value", "dotted"),
    [
        (None, "seed", 1, "seed"),
        ("population", "clients", 11, "population.clients"),
        ("defense", "name", "krum", r"defense\.name"),
        ("training", "epochs", 2, r"training\.epochs"),
        ("record", "every", 2, r"record\.every"),
    ],
)
def test_a_changed_key_is_refused_by_name(path, group, key, value, dotted):
    values = yaml.safe_load((path / "config.yaml").read_text())
    (values if group is None else values[group])[key] = value
    if key == "name":
        values[group] = {key: value}
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    refused(path, ConfigError, f"^{dotted}: was changed since the run began.*received {value!r}")
    (path / "began.json").unlink()
    refused(path, RecordError, "round-000004 is foreign")
    shutil.rmtree(path / "checkpoints")
    assert continuation(RunDirectory(path)).first_round == 0, "a run that begins again may be another"


def test_where_it_runs_and_how_often_it_is_saved_may_change(path):
    values = yaml.safe_load((path / "config.yaml").read_text())
    values["checkpoint"] = {"every": 3, "keep": 1}
    values["resources"]["threads"] = 2
    (path / "config.yaml").write_text(yaml.safe_dump(values))
    assert continuation(RunDirectory(path)).first_round == 4


def test_what_binds_a_run_is_flat_and_without_rounds():
    keys = binding(ExperimentConfig(attack=["noise", "ipm"], rounds=3))
    assert keys["attack.1.name"] == "ipm"
    assert keys["resources.device"] == "auto"
    assert not {"rounds", "resources.threads", "checkpoint.every", "data.root"} & set(keys)


# -- more rounds ----------------------------------------------------------------------------------------


def test_an_extended_run_is_the_longer_run_in_one_go(path, tmp_path):
    longer = run(tmp_path / "longer", rounds=6).path
    result = raysim.resume(path, backend="inprocess", rounds=6)
    assert results(path) == results(longer)
    assert result.config.rounds == 6
    assert len(result.rounds) == 6
    refused(path, ConfigError, r"^rounds: must be at least the run's 6; received 5", rounds=5)


def test_fewer_rounds_than_are_done_are_refused(path):
    values = yaml.safe_load((path / "config.yaml").read_text())
    (path / "config.yaml").write_text(yaml.safe_dump({**values, "rounds": 2}))
    refused(path, ConfigError, "^rounds: must be at least the 4 rounds that are done; received 2")


# -- the tables -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", COLUMNS)
@pytest.mark.parametrize("damaged", [False, True])
def test_a_table_that_lacks_rounds_is_refused(path, finished, table, damaged):
    file = path / f"{table}.parquet"
    shutil.rmtree(path / "checkpoints/round-000004")
    if damaged:
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    problem = "is damaged" if damaged else "lacks 3 of the 3 rounds before the checkpoint"
    refused(path, RecordError, rf"{table}\.parquet {problem}.*--from 0")
    raysim.resume(path, backend="inprocess", from_round=0)
    assert results(path) == results(finished)


def test_a_run_without_a_checkpoint_says_that_it_begins_again(path, finished):
    shutil.rmtree(path / "checkpoints")
    plan = continuation(RunDirectory(path))
    assert (plan.first_round, plan.finished) == (0, 4)
    assert "goes on from the start (no checkpoint is left to go on from): 4 finished rounds" in plan.sentence
    raysim.resume(path, backend="inprocess")
    assert results(path) == results(finished)
    assert continuation(RunDirectory(path)).sentence == ""


def test_what_the_run_began_with_must_be_readable(path):
    assert json.loads((path / "began.json").read_text())["seed"] == 0
    for content in ("{", "[]"):
        (path / "began.json").write_text(content)
        refused(path, RecordError, "began.json is damaged")


# -- half-written runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [("config.yaml",), ("config.yaml", "environment.json")])
def test_a_run_killed_while_its_folder_was_begun_goes_on_whole(path, finished, left):
    for item in list(path.iterdir()):
        if item.name not in left:
            shutil.rmtree(item) if item.is_dir() else item.unlink()
    raysim.resume(path, backend="inprocess")
    assert results(path) == results(finished)
    assert {item.name for item in path.iterdir()} == {item.name for item in finished.iterdir()}
    assert json.loads((path / "began.json").read_text()) == json.loads((finished / "began.json").read_text())
    assert json.loads((path / "environment.json").read_text())["seed"] == 0


def test_a_folder_without_a_configuration_holds_no_run(path):
    (path / "config.yaml").unlink()
    refused(path, RecordError, "holds no run: config.yaml is missing")
    (path / "config.yaml").touch()
    refused(path, ConfigError, "^config: must hold a mapping of groups")
