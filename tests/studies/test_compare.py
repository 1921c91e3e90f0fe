"""Runs side by side: which, under what names, with what numbers, and where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.config.schema import Component
from raysim.errors import ConfigError, RecordError
from raysim.replay.replay import replay
from raysim.studies.compare import compared, differences, names_of, page_of, runs_of
from tests import federations

CONFIG: dict[str, Any] = {**federations.smallest(), "record": {"updates": True}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs, the first with a replay; not to be changed."""
    out = tmp_path_factory.mktemp("runs")
    raysim.run(CONFIG, name="first", out=out, backend="inprocess")
    other = {**CONFIG, "defense": {"name": "median"}, "seed": 1, "attack": None}
    raysim.run(other, name="second", out=out, backend="inprocess")
    replay(out / "first", [Component(name="flame")])
    return out


def test_runs_sweeps_and_replays_are_found(kept: Path):
    first, second = kept / "first", kept / "second"
    assert runs_of([second, first]) == [second, first]
    assert runs_of([kept]) == [first, second]
    assert runs_of([first, first / "replays"]) == [first, first / "replays" / "flame"]
    with pytest.raises(ConfigError, match="at least two runs"):
        runs_of([first, kept / "second" / ".." / "first"])
    with pytest.raises(RecordError, match="holds no run"):
        runs_of([kept / "none"])


def test_names_are_as_long_as_they_must_be(tmp_path: Path):
    assert names_of([tmp_path / "a", tmp_path / "b"]) == ["a", "b"]
    assert names_of([tmp_path / "a" / "krum", tmp_path / "b" / "krum", tmp_path / "c"]) == [
        "a/krum",
        "b/krum",
        "c",
    ]


def test_the_numbers_are_the_runs_own(kept: Path):
    first, second = compared([kept / "first", kept / "second"])
    rounds = first.run.rounds
    assert first.measures["main_accuracy"] == rounds["main_accuracy"][-1]
    assert first.measures["recall"] == np.nanmean(rounds["recall"])
    assert np.isnan(second.measures["recall"])
    assert {"train", "gram"} <= set(first.stages)
    assert "gram" not in second.stages
    assert "record" not in first.stages


def test_only_what_differs_is_listed(kept: Path):
    found = differences(compared([kept / "first", kept / "second"]))
    assert found["seed"] == ["0", "1"]
    assert ["krum", "median"] in found.values()
    assert "rounds" not in found
    assert differences(compared([kept / "first", kept / "first"])[:1] * 2) == {}


def test_the_page_shows_all_of_it(kept: Path):
    page = page_of(compared([kept / "first", kept / "second", kept / "first" / "replays" / "flame"]))
    text = "\n".join(page.sections)
    assert "| key | first | second | flame |" in text
    assert "| stage | first | second | flame |" in text
    assert list(page.figures) == ["accuracy", "stages"]
    bars = page.figures["stages"][1].axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["first", "second", "flame"]
    assert len(page.figures["accuracy"][1].axes[0].lines) == 2  # a replay measures no accuracy
    assert r"\toprule" in page.files["compare.tex"]


@pytest.mark.usefixtures("drawn")
def test_the_command(kept: Path, tmp_path: Path):
    result = CliRunner().invoke(app, ["compare", str(kept), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr
    assert "| first | " in result.stdout
    assert (tmp_path / "out" / "compare-stages.svg").stat().st_size > 0
    refused = CliRunner().invoke(app, ["compare", str(kept / "first"), "--out", str(tmp_path / "no")])
    assert refused.exit_code == 2
    assert not (tmp_path / "no").exists()
