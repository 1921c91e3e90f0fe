from __future__ import annotations

import html
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

import raysim
import raysim.report.page
from raysim.backends.telemetry import Span
from raysim.cli.listing import KINDS
from raysim.cli.main import app
from raysim.composition.methods import written_out
from raysim.runs.directory import RunDirectory
from raysim.runs.execution import Progress

Raysim = Callable[..., Result]

TINY = [
    "rounds=3",
    "population.clients=6",
    "population.malicious=1",
    "data.limit=300",
    "training.epochs=1",
    "defense.name=krum",
    "defense.num_byzantine=1",
    "checkpoint.every=1",
]

CRASHING = '''
from dataclasses import dataclass

from defenses.fedavg import FedAvg


@dataclass(frozen=True)
class Crashing(FedAvg):
    """Fails in round 2."""

    def apply(self, state, updates, ctx):
        if ctx.round == 2:
            raise ValueError("no [/bold] idea")
        return super().apply(state, updates, ctx)
'''


def call(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(runs: Path) -> Result:
    return call("run", *TINY, "--backend", "inprocess", "--out", str(runs), "--name", "first")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """A run of 3 rounds that ended after round 1."""

    def stop(news: Progress) -> None:
        if news.row and news.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        raysim.run(
            raysim.load_config(None, TINY), name="first", out=tmp_path, backend="inprocess", observe=stop
        )
    return tmp_path / "first"


def test_a_run_prints_one_line_a_round_where_there_is_no_terminal(finished: Result):
    lines = [line for line in finished.stdout.splitlines() if line.startswith("round ")]
    assert [line.partition(":")[0] for line in lines] == [f"round {n} ({n + 1} of 3)" for n in range(3)]
    assert all("accuracy" in line and "recall" in line and "left" in line for line in lines)
    assert finished.exit_code == 0
    assert finished.stderr == ""


def test_a_run_prints_its_results_and_where_they_are(finished: Result, runs: Path):
    words = [line.split() for line in finished.stdout.splitlines()]
    rows = RunDirectory(runs / "first").read("rounds").to_pylist()
    accuracies = [row["main_accuracy"] for row in rows]
    shown = [accuracies[-1], max(accuracies), sum(accuracies) / 3]
    assert ["main", "accuracy", *(part for x in shown for part in (f"{100 * x:.2f}", "%"))] in words
    assert ["recall", f"{sum(row['recall'] for row in rows) / 3:.3f}", "3"] in words
    assert ["FPR", f"{sum(row['fpr'] for row in rows) / 3:.3f}", "3"] in words
    assert any(line[:3] == ["the", "defense", "costs"] for line in words)
    assert ["client:", "train"] in [line[:2] for line in words]
    assert f"{runs}/first/report.html" in finished.stdout
    assert (runs / "first" / "report.html").is_file()
    assert {file.name for file in (runs / "first").glob("*.parquet")} == {
        "rounds.parquet", "clients.parquet", "spans.parquet",
    }  # fmt: skip


def test_what_the_loader_decided_is_said_once_kept_and_reported(tmp_path: Path):
    images = [{"bytes": png, "path": None} for png in map(_grey_png, (0, 90, 180) * 10)]
    table = pa.table({"image": images, "label": [10**6, 7, 30] * 10})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    words = ["data.name=parquet", f"data.root={tmp_path / 'set'}", "data.limit=20", "population.clients=3"]
    words = [
        *TINY[:1],
        *words,
        "attack=none",
        "population.malicious=0",
        "defense=fedavg",
        "server_data.samples=0",
    ]
    result = call("run", *words, "--backend", "inprocess", "--out", str(tmp_path), "--name", "first")
    assert result.exit_code == 0, result.stderr
    said = "labels 7, 30, 1000000 are classes 0..2, in this order"
    assert [line for line in result.stdout.splitlines() if said in line] == [
        line for line in result.stdout.splitlines() if line.startswith("note: ")
    ]
    assert result.stdout.count(said) == 1
    (note,) = json.loads((tmp_path / "first" / "environment.json").read_text())["notes"]
    assert note.endswith(said)
    assert f"<dt>Note</dt><dd>{html.escape(note)}</dd>" in (tmp_path / "first" / "report.html").read_text()


def _grey_png(value: int) -> bytes:
    stored = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stored, "PNG")
    return stored.getvalue()


def test_a_run_whose_report_cannot_be_written_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(path: Path) -> Path:
        raise ValueError("no [red] ink")

    monkeypatch.setattr(raysim.report.page, "render", fail)
    result = call(
        "run", *TINY, "rounds=1", "--backend", "inprocess", "--out", str(tmp_path), "--name", "first"
    )
    assert result.exit_code == 0
    assert "no report: ValueError: no [red] ink" in result.stderr
    assert "main accuracy" in result.stdout
    assert RunDirectory(tmp_path / "first").finished_rounds() == 1


def test_a_defense_that_is_shown_the_truth_is_named_so(tmp_path: Path):
    words = [*TINY[:-3], "defense.name=defenses.oracle:Oracle", "rounds=1"]
    result = call("run", *words, "--backend", "inprocess", "--out", str(tmp_path), "--name", "bound")
    header = [line for line in result.stdout.splitlines() if "bound: noise against" in line]
    assert header
    assert all("defenses.oracle:Oracle (calibration only)" in line for line in header)


def test_a_chain_with_the_oracle_is_shown_the_truth_and_named_so(tmp_path: Path):
    words = [*TINY[:-3], "defense=[clip_norm,oracle]", "rounds=2", "--backend", "inprocess"]
    result = call("run", *words, "--out", str(tmp_path), "--name", "bound")
    assert result.exit_code == 0, result.stderr
    assert "clip_norm, then oracle (calibration only)" in result.stdout
    clients = RunDirectory(tmp_path / "bound").read("clients")
    assert clients["flagged"].to_pylist() == [float(truth) for truth in clients["malicious"].to_pylist()]
    assert any(clients["malicious"].to_pylist())
    assert ", then oracle (calibration only)" in (tmp_path / "bound" / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["populaton.clients=3"], ["populaton", "unknown key", "did you mean 'population'"]),
        (["training.epoch=2"], ["training.epoch", "unknown key", "received 2", "did you mean 'epochs'"]),
        (["rounds=many"], ["rounds", "integer", "received 'many'"]),
        (["rounds=0"], ["rounds", "greater than or equal to 1", "received 0"]),
        (["defense.name=krumm"], ["defense.name", "must be one of", "'krumm'", "did you mean 'krum'"]),
        (["attack.name=noize"], ["attack.name", "must be one of", "'noize'", "did you mean 'noise'"]),
        (["defense.num_byzantine=few"], ["defense.num_byzantine", "whole number", "received 'few'"]),
        (["defense.num_byzantin=1"], ["defense.num_byzantin", "did you mean 'num_byzantine'"]),
        (["defense.num_byzantine=5"], ["defense.num_byzantine", "received 5", "nearest valid: "]),
        (["population.malicious=9"], ["population.malicious", "must not exceed", "received 9", "valid: 6"]),
        (["population.cohort=7"], ["population.cohort", "must not exceed", "received 7", "valid: 6"]),
        (["data.name=cifar10", "data.root=/nowhere"], ["cifar10", "/nowhere"]),
        (["nonsense"], ["override", "must have the form KEY=VALUE", "received 'nonsense'"]),
    ],
)
def test_a_mistake_in_the_request_is_refused_before_anything_starts(
    words: list[str], said: list[str], tmp_path: Path
):
    result = call(
        "run", "quickstart", *TINY, *words, "--backend", "inprocess", "--out", str(tmp_path / "runs")
    )
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert [part for part in said if part not in result.stderr] == []
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "quickstrat"], "did you mean 'quickstart'"),
        (["run", "absent.yaml"], "must be a readable file"),
        (["run", "--nme", "first"], "--name"),
        (["run", "--backend", "rya"], "'ray'"),
        (
            ["run", "defense.name=krum", "--backend", "inprocess", "--address", "here"],
            "belongs to backend ray",
        ),
        (["list", "attaks"], "did you mean 'attacks'"),
        (["list", "defense", "flam"], "did you mean 'flame'"),
        (["list", "presets", "table2", "zebra"], "must be words that"),
        (["list", "attacks", "--all"], "--all: must follow presets"),
        (["show", "rounds=x"], "received 'x'"),
        (["resume", "absent"], "holds no run"),
        (["report", "absent"], "holds no run"),
        (["rum"], "run"),
    ],
)
def test_every_command_answers_mistakes_with_status_2(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = call(*words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_name_in_use_is_refused(finished: Result, runs: Path):
    before = (runs / "first" / "rounds.parquet").stat().st_mtime_ns
    result = call("run", *TINY, "--backend", "inprocess", "--out", str(runs), "--name", "first")
    assert result.exit_code == 2
    assert "already holds a run" in result.stderr
    assert (runs / "first" / "rounds.parquet").stat().st_mtime_ns == before


def test_a_crash_in_a_method_is_one_line_and_keeps_finished_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "crashing_defense.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["run", *TINY[:-3], "defense.name=crashing_defense:Crashing", "--backend", "inprocess"]
    result = call(*words, "--out", str(tmp_path), "--name", "plain")
    assert result.exit_code == 1
    message, kept = result.stderr.splitlines()
    assert message.startswith("error: round 2, stage judge: ")
    assert message.endswith("ValueError: no [/bold] idea")
    assert kept.startswith(f"2 of 3 rounds are kept in {tmp_path / 'plain'}; to go on: raysim resume ")
    assert kept.endswith(" --backend inprocess")
    assert RunDirectory(tmp_path / "plain").finished_rounds() == 2
    traced = call(*words, "--out", str(tmp_path), "--name", "traced", "--debug")
    assert "Traceback" in traced.stderr
    assert 'raise ValueError("no [/bold] idea")' in traced.stderr
    assert message in traced.stderr.splitlines()


def test_resume_ends_as_the_run_in_one_go_did(finished: Result, runs: Path, interrupted: Path):
    result = call("resume", str(interrupted), "--backend", "inprocess")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("round ")]
    assert [line.partition(":")[0] for line in lines] == ["round 2 (3 of 3)"]
    whole = [line for line in finished.stdout.splitlines() if line.startswith("round 2")]
    assert lines[0].rpartition(";")[0] == whole[0].rpartition(";")[0], "means include the rounds before"
    assert (interrupted / "digest.txt").read_text() == (runs / "first" / "digest.txt").read_text()
    assert (interrupted / "report.html").is_file()


def test_resuming_a_finished_run_says_so_at_once(finished: Result, runs: Path):
    before = (runs / "first" / "rounds.parquet").stat().st_mtime_ns
    result = call("resume", str(runs / "first"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout == f"{runs / 'first'} is finished: all 3 rounds are there; nothing is left to resume\n"
    )
    assert (runs / "first" / "rounds.parquet").stat().st_mtime_ns == before


def test_report_renders_again(finished: Result, runs: Path):
    page = runs / "first" / "report.html"
    page.unlink(missing_ok=True)
    result = call("report", str(runs / "first"))
    assert result.exit_code == 0
    assert result.stdout.strip() == f"{page}: 3 of 3 rounds"
    assert page.is_file()


def test_report_puts_together_what_a_killed_run_left(finished: Result, runs: Path, tmp_path: Path):
    whole, killed = RunDirectory(runs / "first"), RunDirectory(tmp_path / "killed")
    killed.start((whole.path / "config.yaml").read_text(), {})
    tables = {name: whole.read(name).to_pylist() for name in ("rounds", "clients", "spans")}
    for row in tables["rounds"][:2]:
        here = {name: [r for r in tables[name] if r["round"] == row["round"]] for name in tables}
        spans = [Span(**{key: value for key, value in s.items() if key != "round"}) for s in here["spans"]]
        killed.write_round(row["round"], row, here["clients"], spans)
    result = call("report", str(killed.path))
    assert result.exit_code == 0
    assert "2 of 3 rounds" in result.stdout
    assert (killed.path / "report.html").is_file()
    assert (killed.path / "rounds.parquet").is_file()
    assert not (killed.path / "parts").exists()


def test_show_prints_every_key_and_can_be_run_from(tmp_path: Path):
    result = call("show", "quickstart", *TINY)
    config = written_out(raysim.load_config("quickstart", TINY))
    assert yaml.safe_load(result.stdout) == config.to_mapping()
    assert config.to_mapping()["data"]["partition"]["samples_per_client"] is None
    (tmp_path / "mine.yaml").write_text(result.stdout)
    again = call("show", str(tmp_path / "mine.yaml"), "seed=7")
    assert yaml.safe_load(again.stdout) == {**config.to_mapping(), "seed": 7}


def test_show_alone_is_the_quickstart():
    assert call("show").stdout == written_out(raysim.load_config("quickstart")).to_yaml()


def test_show_refuses_what_run_would_refuse():
    result = call("show", "defense.name=krum", "defense.num_byzantin=3")
    assert result.exit_code == 2
    assert "did you mean 'num_byzantine'?" in result.stderr


@pytest.mark.parametrize("command", ["run", "resume", "report", "list", "show"])
def test_help_has_examples(command: str):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.count(f"  raysim {command}") >= 1


@pytest.mark.slow
def test_what_trains_nothing_loads_neither_torch_nor_ray(finished: Result, runs: Path):
    """In one process, command after command: the first that loads one of them is at fault."""
    commands = [
        ["--help"],
        ["run", "--help"],
        ["report", "--help"],
        ["list"],
        *(["list", kind] for kind in KINDS),
        ["show", "--explain"],
        ["report", str(runs / "first")],
    ]
    code = """
import json, sys
from raysim.cli import main as cli
found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["raysim", *words]
    try:
        cli.main()
    except SystemExit as end:
        found.append([end.code or 0, sorted({"torch", "ray"} & set(sys.modules))])
print(json.dumps(found), file=sys.stderr)
"""
    asked = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert dict(zip(map(" ".join, commands), json.loads(done.stderr), strict=True)) == {
        " ".join(words): [0, []] for words in commands
    }


def test_resume_takes_more_rounds_and_nothing_else(finished: Result, runs: Path, tmp_path: Path):
    path = shutil.copytree(runs / "first", tmp_path / "first")
    for words, said in (
        (["seed=1"], "seed: cannot change when a run goes on: only rounds may grow"),
        (["rounds=2"], "rounds: must be at least the run's 3"),
        (["rounds=many"], "rounds: must be a whole number"),
        (["--from", "9"], "--from: must be 0 or the number of a checkpoint"),
    ):
        refused = call("resume", str(path), *words, "--backend", "inprocess")
        assert refused.exit_code == 2
        assert said in refused.stderr
    result = call("resume", str(path), "rounds=4", "--backend", "inprocess")
    assert result.exit_code == 0
    assert [line[:8] for line in result.stdout.splitlines() if line.startswith("round ")] == ["round 3 "]
