"""Running a paper's cells: which, what is kept, what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from raysim.cli.main import app
from raysim.errors import ConfigError, RecordError
from raysim.presets.preset import Preset
from raysim.runs.directory import RunDirectory
from raysim.studies.papers.page import PaperCell, section
from raysim.studies.papers.study import Reproduce, ReproduceCell, ReproducePlan, select
from raysim.studies.runner import carry_out
from raysim.studies.table import Values

NAME = "pdrr/table3-krum-pdrr"
NAN = float("nan")


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *words])


def cell(missing: tuple[int, ...] = (), **measured: list[float]) -> PaperCell:
    preset = Preset(
        "flare/table3-a", "", {}, {}, ("main_accuracy", "recall", "fpr"), {"main_accuracy": 0.916, "recall": None},
        doubts={"main_accuracy": "why"}, stand_ins="kather -> synthetic",
    )  # fmt: skip
    return PaperCell(preset, {key: Values.of(values) for key, values in measured.items()}, missing)


def test_without_a_table_those_with_reported_numbers_are_chosen():
    assert list(select("pdrr")) == ["table1", "table2", "table2_full", "table3"]
    assert list(select("gcama"))[:2] == ["fig2", "fig2_gae"]
    assert "fig12" in select("flare", ["all"])
    assert list(select("flare", ["5"])) == list(select("flare", ["table5"])) == ["table5"]
    assert len(select("flare", ["5"])["table5"]) == 10
    assert list(select("pdrr", ["fig4", "2_full", "1"])) == ["fig4", "table2_full", "table1"]


@pytest.mark.parametrize(
    ("paper", "table", "message"),
    [("flair", (), "did you mean 'flare'"), ("flare", ["9"], "table"), ("pdrr", ["1", "tabel1"], "did you mean 'table1'")],
)  # fmt: skip
def test_what_there_is_not_is_refused(paper, table, message):
    with pytest.raises(ConfigError, match=message):
        select(paper, table)


def test_an_entry_is_reported_beside_measured():
    made = cell(main_accuracy=[0.9, 0.8], recall=[0.2, 0.4, NAN], fpr=[NAN])
    assert made.entry("main_accuracy") == "91.6(?) | 85.0 ± 7.1"
    assert made.entry("recall") == "- | 0.300 ± 0.141"
    assert made.entry("fpr") == "| -"
    assert made.entry("f1") == ""
    assert cell(recall=[0.5]).entry("recall") == "- | 0.500"


def test_remarks_tell_stand_ins_only_at_small_scale():
    assert cell().remarks("paper") == ["(?) accuracy %: why"]
    said = ["kather -> synthetic", "(?) accuracy %: why", "not run: seed 1, 2"]
    assert cell((1, 2)).remarks("small") == said


def test_markdown_keeps_bars_inside_cells():
    text = section([cell(recall=[1.0])], "paper")
    assert text.splitlines()[0] == "| cell | accuracy % | recall | FPR |"
    assert "- \\| 1.000" in text
    assert text.endswith("|\n\n- (?) accuracy %: why")


def test_markdown_says_each_remark_once_and_of_which_cells():
    text = section([cell(), cell((0,))], "small")
    assert text.count("kather -> synthetic") == text.count("(?) accuracy %: why") == 1
    assert text.endswith("- not run: seed 0 (a)")


def reproduce(out: Path, resume: bool = False, **plan: Any) -> str:
    options = {"paper": "pdrr", "scale": "small", **plan}
    return carry_out(Reproduce(), ReproducePlan(**options), out, resume=resume, tell=lambda line: None)


def test_a_page_says_what_is_not_measured_yet(tmp_path):
    plan = ReproducePlan(paper="flare", scale="paper", table="5", match="krum_backdoor", seeds="0,1")
    text = carry_out(Reproduce(), plan, tmp_path, at_most=0, tell=lambda line: None)
    (row,) = (line for line in text.splitlines() if line.startswith("| krum_backdoor-fmnist-flare |"))
    assert row.endswith(" 1.6 \\| - |")
    assert "- not run: seed 0, 1\n" in text
    assert not (tmp_path / "runs").exists()


def test_finished_runs_are_kept_seeds_are_added_and_another_configuration_is_refused(tmp_path, monkeypatch):
    import raysim

    began: list[str] = []
    run = raysim.run
    monkeypatch.setattr(
        raysim, "run", lambda config, **more: (began.append(more["name"]), run(config, **more))[1]
    )
    options: dict[str, Any] = {"table": "3", "match": "table3-krum-pdrr"}
    reproduce(tmp_path, seeds="0", **options)
    text = reproduce(tmp_path, resume=True, seeds="0,1", **options)
    assert began == ["seed-0", "seed-1"]
    assert "0.420 \\| " in text
    found = pq.read_table(tmp_path / "measures.parquet").to_pylist()
    assert [(row["preset"], row["seed"]) for row in found if row["measure"] == "defense_s"] == [
        (NAME, 0),
        (NAME, 1),
    ]
    with pytest.raises(RecordError, match="was measured with overrides"):
        reproduce(tmp_path, resume=True, overrides=("training.epochs=2",), **options)


def test_an_unfinished_run_goes_on(tmp_path):
    options: dict[str, Any] = {
        "table": "1", "match": "krum-pdrr", "seeds": "0", "overrides": ("rounds=2", "checkpoint.every=1"),
    }  # fmt: skip
    whole = reproduce(tmp_path, **options)
    cell = ReproduceCell("pdrr/table1-krum-pdrr", 0)
    directory = RunDirectory(tmp_path / cell.run)
    directory.forget_rounds_from(1)
    (directory.path / "checkpoints" / "round-000002").rename(tmp_path / "lost")
    (tmp_path / "parts" / "measures" / f"{cell.name}.parquet").unlink()
    assert directory.finished_rounds() == 1
    again = reproduce(tmp_path, resume=True, **options)
    assert [line for line in again.splitlines() if line.startswith("| krum")] == [
        line for line in whole.splitlines() if line.startswith("| krum")
    ]
    assert directory.finished_rounds() == 2


@pytest.mark.usefixtures("drawn")
def test_the_command_prints_and_writes_a_table(tmp_path: Path):
    file = tmp_path / "tables" / "pdrr.md"
    words = ["pdrr", "--table", "2_full", "--scale", "small", "--seeds", "0", "rounds=2"]
    result = call(*words, "--out", str(tmp_path / "out"), "--page", str(file))
    assert result.exit_code == 0, result.output
    assert "## table2_full" in result.stdout
    assert "femnist -> digits" in result.stdout
    assert "| trimmed_mean-pdrr | 0.000 \\| " in file.read_text()
    assert (file.parent / "pdrr-measured.svg").exists()


def test_cells_without_data_are_told_and_fail_the_command(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("RAYSIM_DATA", str(tmp_path / "nothing"))
    words = ["flare", "--table", "2", "--match", "fmnist-fedavg", "--scale", "small", "--seeds", "0"]
    result = call(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "fedavg, seed 0: fashion_mnist" in result.stderr
    page = (tmp_path / "out" / "reproduce.md").read_text()
    assert "91.8 \\| -" in page
    assert "- not run: seed 0" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("flair",), "did you mean 'flare'"),
        (("flare", "--table", "17"), "error: table"),
        (("flare", "--match", "tensorflow"), "error: match"),
        (("pdrr", "rounds=0", "--scale", "small"), "error: rounds"),
        (("pdrr", "--scale", "small", "--address", "10.0.0.1:1"), "error: address"),
    ],
)
def test_wrong_requests_start_nothing(words, message, tmp_path):
    result = call(*words, "--out", str(tmp_path / "out"))
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
