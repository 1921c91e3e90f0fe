"""Running a paper's cells: which, what is kept, what is printed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.presets import generated
from raysim.presets.preset import Preset
from raysim.runs.directory import RunDirectory
from raysim.studies.papers.cells import PaperCell, run_cell, select
from raysim.studies.papers.comparison import entry, keys, lines, markdown, notes

NAME = "pdrr/table3-krum-pdrr"
NAN = float("nan")


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *words])


def cell(problem: str = "", **measured: list[float]) -> PaperCell:
    preset = Preset(
        "flare/table3-a", "", {}, {}, ("main_accuracy", "recall", "fpr"), {"main_accuracy": 0.916, "recall": None},
        doubts={"main_accuracy": "why"}, stand_ins="kather -> synthetic",
    )  # fmt: skip
    return PaperCell(preset, measured, problem)


def test_without_a_table_those_with_reported_numbers_are_chosen():
    assert list(select("pdrr")) == ["table1", "table2", "table2_full", "table3"]
    assert list(select("gcama")) == ["fig2", "fig2_gae"]
    assert "fig12" in select("flare", "all")
    assert list(select("flare", "5")) == list(select("flare", "table5")) == ["table5"]
    assert len(select("flare", "5")["table5"]) == 10


@pytest.mark.parametrize(
    ("paper", "table", "message"),
    [("flair", None, "did you mean 'flare'"), ("flare", "9", "table"), ("pdrr", "tabel1", "did you mean 'table1'")],
)  # fmt: skip
def test_what_there_is_not_is_refused(paper, table, message):
    with pytest.raises(ConfigError, match=message):
        select(paper, table)


def test_means_and_spreads_leave_out_what_is_undefined():
    made = cell(recall=[0.2, 0.4, NAN], fpr=[0.1], main_accuracy=[NAN])
    assert made.mean("recall") == pytest.approx(0.3)
    assert made.spread("recall") == pytest.approx(math.sqrt(0.02))
    assert made.mean("fpr") == pytest.approx(0.1)
    assert math.isnan(made.spread("fpr"))
    assert math.isnan(made.mean("main_accuracy"))


def test_an_entry_is_reported_beside_measured():
    made = cell(main_accuracy=[0.9, 0.8], recall=[0.5])
    assert entry(made, "main_accuracy") == "91.6(?) | 85.0 ± 7.1"
    assert entry(made, "recall") == "- | 0.500"
    assert entry(made, "fpr") == "| -"
    assert entry(made, "f1") == ""


def test_notes_tell_stand_ins_only_at_small_scale():
    assert notes(cell(), "paper") == "(?) accuracy %: why"
    assert notes(cell("no files"), "small") == "kather -> synthetic; (?) accuracy %: why; not run: no files"


def test_markdown_keeps_bars_inside_cells():
    text = markdown("flare table3", [cell(recall=[1.0])], "paper")
    assert text.splitlines()[2] == "| cell | accuracy % | recall | FPR |"
    assert "- \\| 1.000" in text
    assert text.endswith("|\n\n- (?) accuracy %: why\n")
    assert keys([cell()]) == ["main_accuracy", "recall", "fpr"]
    assert lines([cell()], "paper")[0][0] == "a"


def test_markdown_says_each_remark_once_and_of_which_cells():
    text = markdown("flare table3", [cell(), cell("no files")], "small")
    assert text.count("kather -> synthetic") == text.count("(?) accuracy %: why") == 1
    assert text.endswith("- not run: no files (a)\n")


def test_finished_runs_are_kept_and_another_configuration_is_refused(tmp_path):
    preset = generated()[NAME]
    begun: list[str] = []
    options: dict[str, Any] = {"scale": "small", "seeds": range(2), "out": tmp_path, "started": begun.append}
    first = run_cell(preset, **options)
    assert begun == [f"{NAME}, seed 0", f"{NAME}, seed 1"]
    again = run_cell(preset, **options)
    assert len(begun) == 2
    assert again.measured == first.measured
    assert len(first.measured["defense_s"]) == 2
    run_cell(preset, **options, overrides=["resources.threads=1", "checkpoint.every=5"])
    with pytest.raises(ConfigError, match="another's run"):
        run_cell(preset, **options, overrides=["training.epochs=2"])


def test_an_unfinished_run_goes_on(tmp_path):
    preset = generated()["pdrr/table1-krum-pdrr"]
    options = {
        "scale": "small",
        "seeds": (0,),
        "out": tmp_path,
        "overrides": ["rounds=2", "checkpoint.every=1"],
    }
    whole = run_cell(preset, **options)
    directory = RunDirectory(tmp_path / "small" / preset.name / "seed-0")
    directory.forget_rounds_from(1)
    (directory.path / "checkpoints" / "round-000002").rename(tmp_path / "lost")
    assert directory.finished_rounds() == 1
    assert run_cell(preset, **options).measured == whole.measured
    assert directory.finished_rounds() == 2


def test_the_command_prints_and_writes_a_table(tmp_path: Path):
    file = tmp_path / "tables" / "pdrr.md"
    words = ["pdrr", "--table", "3", "--match", "pdrr/table3-krum", "--scale", "small", "--seeds", "1"]
    result = call(*words, "--match", "krum-pdrr", "--out", str(tmp_path), "--markdown", str(file))
    assert result.exit_code == 0, result.output
    assert "pdrr table3, small scale, 1 seed" in result.output
    assert "0.420 | " in result.output
    assert "femnist -> digits" in result.output
    assert "| krum-pdrr | 0.420 \\| " in file.read_text()


def test_cells_without_data_are_told_and_fail_the_command(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAYSIM_DATA", str(tmp_path / "nothing"))
    words = ["flare", "--table", "2", "--match", "fmnist-fedavg", "--scale", "small", "--seeds", "1"]
    result = call(*words, "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "not run: seed 0: fashion_mnist" in result.output
    assert "91.8 | -" in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("flair",), "did you mean 'flare'"),
        (("flare", "--table", "17"), "error: table"),
        (("flare", "--match", "tensorflow"), "error: match"),
        (("pdrr", "rounds=0", "--scale", "small"), "error: rounds"),
    ],
)
def test_wrong_requests_start_nothing(words, message, tmp_path):
    result = call(*words, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert message in result.output
    assert not list(tmp_path.iterdir())


def test_show_and_run_take_a_scale(tmp_path):
    shown = CliRunner().invoke(app, ["show", "pdrr/table1-krum-pdrr", "--scale", "small"])
    assert shown.exit_code == 0
    assert "clients: 15\n" in shown.output
    assert "reported" not in shown.output
    words = [
        "run",
        NAME,
        "--scale",
        "small",
        "--backend",
        "inprocess",
        "--out",
        str(tmp_path),
        "--name",
        "one",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "digits, 15 clients" in done.output
    assert CliRunner().invoke(app, ["run", "--scale", "small"]).exit_code == 2


def test_presets_are_listed_with_a_line_each():
    listed = CliRunner().invoke(app, ["list", "presets", "--all"])
    assert "FLARE, table3: krum_backdoor against flare, fmnist" in listed.output
    assert "quickstart" in listed.output
