"""What studies have in common: the three files, tables and texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysim.errors import ConfigError
from raysim.studies.option_lists import at_least_one, whole_numbers
from raysim.studies.study import Study, Times, finish, growth_text, markdown_table, panels, settings_of


@dataclass(frozen=True)
class Sizes:
    clients: tuple[int, ...] = (2, 4)
    seed: int = 7


def test_the_three_files_say_the_same(tmp_path: Path):
    figure, (axes,) = panels(1)
    axes.plot([2, 4], [0.5, 2.0], label="squares")
    finish(axes, title="A", x="K", ticks=(2, 4))
    rows = [{"clients": 2, **Times((0.5,)).columns()}, {"clients": 4, **Times((1.0, 2.0, 3.0)).columns()}]
    section = markdown_table(["K", "s"], [["2", "0.5"], ["4", "2.0"]])
    study = Study("squares", "Squares", settings_of(Sizes(), workers=1), rows, [section], figure)
    text = study.write(tmp_path)
    assert text == (tmp_path / "squares.md").read_text()
    assert "# Squares\n" in text
    assert "clients 2 4, seed 7, workers 1" in text
    assert "| K | s |\n|:---|---:|\n| 2 | 0.5 |\n| 4 | 2.0 |\n" in text
    assert (tmp_path / "squares.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    table = pq.read_table(tmp_path / "squares.parquet")
    assert table["clients"].to_pylist() == [2, 4]
    assert table["wall_s"].to_pylist() == [[0.5], [1.0, 2.0, 3.0]]
    assert (table["q1_s"][1].as_py(), table["median_s"][1].as_py(), table["q3_s"][1].as_py()) == (
        1.5,
        2.0,
        2.5,
    )
    about = json.loads(table.schema.metadata[b"about"])
    assert about["settings"] == {"clients": [2, 4], "seed": 7, "workers": 1}
    assert {"versions", "processor", "cpus", "commit", "command"} <= set(about)


def test_growth_needs_three_sizes():
    assert growth_text([1, 2, 4], [1.0, 8.0, 64.0]).startswith("3.00 (")
    assert growth_text([1, 2], [1.0, 8.0]) == "needs 3 sizes"


@pytest.mark.parametrize("text", ["", "5,", "a", "1.5", "-1", "5,5", "10,5", "0,5"])
def test_numbers_that_are_none_are_refused(text):
    with pytest.raises(ConfigError, match="clients"):
        whole_numbers("clients", text)


def test_numbers_may_have_spaces_and_underscores():
    assert whole_numbers("clients", " 24, 1_000") == (24, 1000)


def test_counts_begin_at_one():
    at_least_one("workers", 1)
    with pytest.raises(ConfigError, match="workers"):
        at_least_one("workers", 0)
