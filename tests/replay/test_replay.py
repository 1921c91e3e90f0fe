"""Replaying defenses on recorded updates gives the live verdicts, byte for byte."""

from __future__ import annotations

import shutil

import pytest
from typer.testing import CliRunner

import raysim
from raysim import ConfigError, RecordError
from raysim.cli.main import app
from raysim.config.schema import Component
from raysim.replay.replay import labels, replay
from raysim.runs.result import RunResult
from tests import federations

VERDICT = ["round", "client", "malicious", "flagged", "score", "weight", "num_examples"]


def verdicts(path):
    return RunResult(path).table("clients").select(VERDICT)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A run with recorded updates; not to be changed."""
    config = {
        **federations.tiny(),
        "record": {"updates": True},
        "defense": {"name": "layercam_ae", "interval": 2, "votes": 2},
    }
    return raysim.run(config, name="live", out=tmp_path_factory.mktemp("runs"), backend="inprocess").path


@pytest.fixture
def recorded(live, tmp_path):
    return shutil.copytree(live, tmp_path / "live")


@pytest.mark.parametrize("backend", ["inprocess", pytest.param("ray", marks=pytest.mark.ray)])
def test_replaying_the_live_defense_gives_its_verdicts(recorded, request, backend):
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    [again] = replay(recorded, [Component(name="layercam_ae", interval=2, votes=2)], backend=backend)
    assert verdicts(again).equals(verdicts(recorded))
    live, replayed = (
        {path.name: path.read_bytes() for path in sorted((run / "artifacts").rglob("*.npy"))}
        for run in (recorded, again)
    )
    assert live == replayed
    stages = {span["stage"] for span in RunResult(again).table("spans").to_pylist()}
    assert {"cam", "autoencoder", "combine"} <= stages
    assert "train" not in stages


def test_rows_the_engine_rejected_stay_rejected(tiny, tmp_path):
    attack = {"name": "tests.faulty_methods:BadUpload"}
    config = {**tiny, "attack": attack, "defense": "median", "record": {"updates": True}}
    live = raysim.run(config, name="live", out=tmp_path, backend="inprocess")
    [again] = replay(live.path, [Component(name="median")])
    assert verdicts(again).equals(verdicts(live.path))
    reasons = {row["client"]: row["reason"] for row in RunResult(again).table("clients").to_pylist()}
    assert {client for client, reason in reasons.items() if reason} == {8, 9}


def test_what_clients_reserved_is_not_asked_of_a_machine_where_none_trains(recorded):
    path = recorded / "config.yaml"
    path.write_text(path.read_text().replace("client_gpus: 0.0", "client_gpus: 0.25"))
    [again] = replay(recorded, [Component(name="krum")])
    assert RunResult(again).config.resources.client_gpus == 0
    assert len(RunResult(again).rounds) == 3


def test_a_range_of_rounds(recorded):
    [again] = replay(recorded, [Component(name="krum")], rounds=(1, 1))
    assert [row["round"] for row in RunResult(again).rounds] == [1]


@pytest.mark.slow
def test_defenses_are_named_on_the_command_line(recorded):
    words = ["replay", str(recorded), "--defense", "median,krum", "--defense", "krum,num_byzantine=2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found = {path.parent.name for path in (recorded / "replays").glob("*/config.yaml")}
    assert found == {"krum", "krum,num_byzantine=2", "median"}
    assert "| krum,num_byzantine=2 | 1 | 3 |" in result.stdout
    again = CliRunner().invoke(app, ["replay", str(recorded), "--defense", "median,flame", "--resume"])
    assert again.exit_code == 0, again.output
    assert "1 of 2 cells are finished already" in again.stderr
    for name in ("median", "flame", "krum,num_byzantine=2"):
        assert f"| {name} | 1 | 3 |" in again.stdout
    assert (recorded / "replays" / "replay-stages.svg").exists()


def test_what_is_asked_for_again_replaces_what_was_there(recorded):
    words = ["replay", str(recorded), "--defense", "median"]
    assert CliRunner().invoke(app, words).exit_code == 0
    result = CliRunner().invoke(app, [*words, "--rounds", "1-2"])
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("| median | 1 | 2 |")]
    assert "| median | 1 | 3 |" not in result.stdout


def test_a_defense_that_is_shown_the_truth_is_named_so_in_all_tables(recorded):
    result = CliRunner().invoke(app, ["replay", str(recorded), "--defense", "oracle"])
    assert result.exit_code == 0, result.output
    assert (recorded / "replays" / "oracle" / "clients.parquet").exists()
    text = (recorded / "replays" / "replay.md").read_text().partition("![")[2]  # below the command
    assert text.count("oracle (calibration only)") == 2
    assert "oracle" not in text.replace("oracle (calibration only)", "")


def test_warming_up_changes_nothing_and_leaves_nothing(recorded):
    """Not the verdicts of a defense that remembers, and no spans."""
    remembering = Component(name="layercam_ae", interval=2, votes=2)
    [cold] = replay(recorded, [remembering])
    [warm] = replay(recorded, [remembering], suffix="@warm", warm_up=True)
    assert warm.name == "layercam_ae,interval=2,votes=2@warm"
    assert verdicts(warm).equals(verdicts(cold))
    stages = [
        [(span["round"], span["stage"]) for span in RunResult(path).table("spans").to_pylist()]
        for path in (cold, warm)
    ]
    assert stages[0] == stages[1]


def test_what_cannot_be_replayed_is_refused(recorded, tiny, tmp_path):
    assert labels([Component(name="a", x=1), Component(name="b:C")]) == ["a,x=1", "b.C"]
    with pytest.raises(ConfigError, match="must name every method once"):
        labels([Component(name="a"), Component(name="a")])
    with pytest.raises(RecordError, match=r"record\.updates=true"):
        replay(recorded, [Component(name="krum")], rounds=(7, 9))
    with pytest.raises(ConfigError, match="did you mean 'krum'"):
        replay(recorded, [Component(name="krun")])
    assert CliRunner().invoke(app, ["replay", str(tmp_path / "nowhere"), "--defense", "krum"]).exit_code == 2
