"""Experiment trackers: what is logged of a run, where it lies, and what is said where one is not installed."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.report import trackers
from raysim.report.trackers import both, tracked
from raysim.runs.execution import Progress
from raysim.runs.result import RunResult
from tests import federations

TINY = federations.words(federations.smallest())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trackers set for themselves is gone after a test."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "true")
        monkeypatch.delenv(name)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def follow(name: Any, path: Path) -> None:
    """A run of two rounds, as its tracker is told of it."""
    with tracked(name, path, raysim.ExperimentConfig()) as observe:
        observe(Progress(0, 2, stage="train", done=1, total=2))
        for number in range(2):
            row = {
                "round": number,
                "main_accuracy": 0.5 + number / 4,
                "fpr": math.nan,
                "notes": "",
                "flagged": 3,
            }
            observe(Progress(number, 2, row=row))


@pytest.mark.slow
def test_tensorboard_holds_the_numbers_of_every_round(tmp_path: Path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["run", "quickstart", *TINY, "--backend", "inprocess", "--out", str(tmp_path), "--name", "one"]
    result = CliRunner().invoke(app, [*words, "--tracker", "tensorboard"])
    assert result.exit_code == 0, result.output
    kept = EventAccumulator(str(tmp_path / "one" / "tensorboard"))
    kept.Reload()
    rows = RunResult(tmp_path / "one").rounds
    for name in ("main_accuracy", "recall"):
        assert [(point.step, pytest.approx(point.value)) for point in kept.Scalars(name)] == [
            (row["round"], row[name]) for row in rows
        ]
    assert "config/text_summary" in kept.Tags()["tensors"]


def test_mlflow_keeps_a_store_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed):
    calls: list[tuple[Any, ...]] = []

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            calls.append(("open", tracking_uri))

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return f"id of {name}"

        def create_run(self, experiment: str, run_name: str) -> Any:
            calls.append(("run", experiment, run_name))
            return SimpleNamespace(info=SimpleNamespace(run_id="r"))

        def log_param(self, run: str, key: str, value: str) -> None:
            calls.append(("param", run, key, value))

        def log_metric(self, run: str, key: str, value: float, step: int) -> None:
            calls.append(("metric", run, key, value, step))

        def set_terminated(self, run: str) -> None:
            calls.append(("end", run))

    module = ModuleType("mlflow")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    follow("mlflow", tmp_path)
    assert calls[:2] == [
        ("open", f"sqlite:///{tmp_path}/mlflow.db"),
        ("run", "id of raysim", tmp_path.name),
    ]
    assert ("param", "r", "data.name", "digits") in calls
    assert [call for call in calls if call[0] == "metric"] == [
        ("metric", "r", "main_accuracy", 0.5, 0),
        ("metric", "r", "flagged", 3.0, 0),
        ("metric", "r", "main_accuracy", 0.75, 1),
        ("metric", "r", "flagged", 3.0, 1),
    ]
    assert calls[-1] == ("end", "r")


def test_wandb_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed):
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            calls.append((step, values))

        def finish(self) -> None:
            calls.append("finish")

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    module = ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    follow("wandb", tmp_path)
    begun, *rounds, end = calls
    assert (begun["mode"], begun["dir"], begun["name"]) == ("offline", str(tmp_path), tmp_path.name)
    assert begun["config"]["data"]["name"] == "digits"
    assert rounds == [
        (0, {"main_accuracy": 0.5, "flagged": 3.0}),
        (1, {"main_accuracy": 0.75, "flagged": 3.0}),
    ]
    assert end == "finish"


def test_a_run_that_ends_early_closes_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed):
    said: list[str] = []

    class Kept(trackers.Tracker):
        def __init__(self, path: Path, config: Any) -> None:
            said.append("open")

        def log(self, number: int, values: Any) -> None:
            said.append(f"round {number}")

        def close(self) -> None:
            said.append("close")

    monkeypatch.setitem(trackers.KINDS, "wandb", Kept)  # type: ignore[arg-type]

    def interrupted() -> None:
        with tracked("wandb", tmp_path, raysim.ExperimentConfig()) as observe:
            assert said == []
            observe(Progress(0, 2, row={"round": 0, "recall": 1.0}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert said == ["open", "round 0", "close"]


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_tracker_that_is_not_installed_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    words = [command, "quickstart", *TINY, "--backend", "inprocess", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*words, "--tracker", "wandb"])
    assert result.exit_code == 2
    assert "tracker: needs a package: pip install raysim-fl[wandb]" in result.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_tracker_nothing_is_logged(tmp_path: Path):
    follow(None, tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="tracker"):
        trackers.require("comet")  # type: ignore[arg-type]


def test_observers_are_told_in_their_order():
    told: list[str] = []
    both(lambda event: told.append("first"), lambda event: told.append("second"))(Progress(0, 1))
    assert told == ["first", "second"]
