"""Tutorials: a study of cost, and many runs in one table, by the commands that their pages print, made small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from raysim.cli.main import app

PAGES = Path(__file__).parents[2] / "docs" / "tutorials"


def printed(page: str, command: str) -> str:
    """The first line of a page that begins so, without the prompt and the program's name."""
    found = re.search(
        rf"^\$ raysim ({command} .+)$", (PAGES / page).read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found, f"{page} shows no {command}"
    return found.group(1)


def carry_out(line: str, *more: str) -> None:
    result = CliRunner().invoke(app, [*shlex.split(line), *more])
    assert result.exit_code == 0, result.stderr


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_study_of_cost():
    carry_out(printed("cost.md", "bench scaling"), "--repeats", "1", "--backend", "inprocess")
    page = Path("scaling/scaling.md").read_text()
    assert re.search(r"\| krum \|.*\| fedgrad \|", page, re.DOTALL)
    left = {path.name for path in Path("scaling").iterdir()}
    assert {"stages.parquet", "memory.parquet", "scaling-growth.svg", "scaling-split.png"} <= left


def test_many_runs_and_one_table():
    small = printed("sweep.md", "sweep").replace("rounds=5", "rounds=1").replace("0,1,2", "0")
    here = ("population.clients=10", "data.limit=200", "--backend", "inprocess", "--workers", "1")
    carry_out(small, *here)
    assert {"sweep.md", "sweep-means.csv", "sweep-means.tex"} <= {
        p.name for p in Path("runs/sweep").iterdir()
    }
    assert len(list(Path("runs/sweep/runs").iterdir())) == 3 * 2
    carry_out("compare runs/sweep")
    assert "krum" in Path("runs/compare/compare.md").read_text()
