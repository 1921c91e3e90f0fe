"""What studies have in common: cells, resuming, refusals, tables, pages; a study of squares is enough."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from raysim.cli.study_command import command_of
from raysim.errors import ConfigError, RecordError
from raysim.options import Count
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import store as stores
from raysim.studies.curves import by_size, growth
from raysim.studies.figure import curve, finish, panels, stacked, style
from raysim.studies.markdown import table as markdown_table
from raysim.studies.options import Image, Methods, Numbers
from raysim.studies.runner import CellCounter, carry_out
from raysim.studies.scaling.presets import PairsPlan
from raysim.studies.study import Bench, Cell, OnCluster, Page, Plan, Study, columns, picture, shuffled
from raysim.studies.table import Values, gathered, ordered


class SquaresPlan(Plan):
    grid: ClassVar = frozenset({"numbers"})
    numbers: Numbers = Field((2, 3), description="what is squared")
    image: Image = Field((1, 8, 8), description="not used")
    methods: Methods = Field((), description="nor are these")
    seed: Count = Field(0, description="seed")


@dataclass(frozen=True)
class SquaresCell(Cell):
    number: int


class Squares(Study[SquaresPlan, SquaresCell]):
    """Squares of numbers."""

    name = "squares"
    title = "Squares"
    plan = SquaresPlan
    tables: ClassVar = {
        "squares": TableSchema(
            "squares",
            columns(number=("int32", "n"), repeat=("int32", "from 0"), square=("float64", "n times n")),
        ),
        "notes": TableSchema("notes", columns(number=("int32", "n"), note=("string", "said of some"))),
    }

    def cells(self, plan: SquaresPlan) -> list[SquaresCell]:
        return [SquaresCell(number) for number in plan.numbers]

    def measure(self, plan: SquaresPlan, cell: SquaresCell, bench: Bench) -> Mapping[str, Rows]:
        if cell.number == 13:
            raise ConfigError("numbers", "must not be 13", 13)
        squares = [{"repeat": repeat, "square": cell.number**2 + repeat} for repeat in range(3)]
        return {"squares": squares, "notes": [{"note": "odd"}] if cell.number % 2 else []}

    def told(self, rows: Mapping[str, Rows]) -> str:
        return str(rows["squares"][0]["square"])

    def page(self, plan: SquaresPlan, tables: Mapping[str, Any]) -> Page:
        found = gathered(tables["squares"], "square", "number")
        numbers = sorted(found)
        figure, (axes,) = panels(1)
        curve(axes, numbers, [found[n] for n in numbers], 0, "squares")
        finish(axes, title="A", x="n", ticks=numbers)
        rows = [[str(n), str(found[n])] for n in numbers]
        sections = [markdown_table(["n", "square"], rows), picture("rest", "The rest")]
        return Page(sections, {"lead": ("Squares", figure), "rest": ("The rest", figure)})


def run(out: Path, resume: bool = False, **plan: Any) -> tuple[str, list[str]]:
    told: list[str] = []
    return carry_out(Squares(), SquaresPlan(**plan), out, resume=resume, tell=told.append), told


@pytest.mark.usefixtures("drawn")
def test_a_study_leaves_tables_a_page_and_figures(tmp_path: Path):
    page = tmp_path / "docs" / "tables" / "squares.md"
    text = carry_out(Squares(), SquaresPlan(), tmp_path / "out", page=page, tell=lambda line: None)
    assert text == (tmp_path / "out" / "squares.md").read_text()
    assert text.startswith("# Squares\n\n    ")
    assert "    numbers 2 3, image 1 8 8, seed 0\n\n![Squares](squares-lead.svg)\n\n" in text
    assert "| n | square |\n|:---|---:|\n| 2 | 5.00 (4.50 to 5.50) |\n| 3 | 10.0 (9.50 to 10.5) |\n" in text
    assert text.endswith("![The rest](squares-rest.svg)\n")
    included = page.read_text()
    assert "# Squares" not in included
    assert "(tables/squares-lead.svg)" in included
    for folder in (tmp_path / "out", page.parent):
        assert (folder / "squares-lead.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert (folder / "squares-rest.svg").stat().st_size > 0
    table = pq.read_table(tmp_path / "out" / "squares.parquet")
    assert sorted(table["square"].to_pylist()) == [4, 5, 6, 9, 10, 11]
    about = json.loads(table.schema.metadata[b"about"])
    assert about["plan"] == {"numbers": [2, 3], "image": [1, 8, 8], "methods": [], "seed": 0}
    assert {"versions", "processor", "cpus", "commit", "command"} <= set(about["environment"])
    assert pq.read_table(tmp_path / "out" / "notes.parquet").to_pylist() == [{"number": 3, "note": "odd"}]
    assert (tmp_path / "out" / "notes.csv").read_text() == '"number","note"\n3,"odd"\n'


def test_a_measurement_goes_on_and_grows(tmp_path: Path):
    with pytest.raises(ConfigError, match="13"):
        run(tmp_path, numbers="2,3,13")
    with pytest.raises(RecordError, match="already holds finished cells: --resume"):
        run(tmp_path)
    text, told = run(tmp_path, resume=True, numbers="2,3,4")
    assert "| 4 | 17.0 (16.5 to 17.5) |" in text
    assert [line for line in told if "of" in line and ": number" in line][-1].startswith(
        f"{len(told) - 1} of {len(told) - 1}: number"
    )
    text, told = run(tmp_path, resume=True, numbers="2")
    assert told == ["1 of 1 cells are finished already"]
    assert "| 4 |" in text  # nothing measured is lost


def test_only_so_many_cells_are_measured_at_a_time(tmp_path: Path):
    told: list[str] = []
    for most, numbers in ((0, []), (1, [2]), (1, [2, 3]), (None, [2, 3, 4])):
        plan = SquaresPlan(numbers="2,3,4")
        text = carry_out(Squares(), plan, tmp_path, resume=True, at_most=most, tell=told.append)
        assert [number for number in (2, 3, 4) if f"| {number} | " in text] == numbers
    left = [line.partition(" cells are left")[0] for line in told if "another time" in line]
    assert left == ["3 of 3", "2 of 3", "1 of 3"]


@pytest.mark.parametrize(("key", "value"), [("commit", "abc"), ("processor", "abacus")])
def test_cells_of_another_origin_are_refused(tmp_path: Path, monkeypatch, key: str, value: str):
    run(tmp_path)
    with pytest.raises(RecordError, match="was measured with seed 0, not 1"):
        run(tmp_path, resume=True, seed=1)
    here = stores.environment()
    monkeypatch.setattr(stores, "environment", lambda: {**here, key: value})
    with pytest.raises(RecordError, match=f"{key} .*, not '{value}': choose another --out"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns(["square"]), "no column square"),
        (lambda table: table.replace_schema_metadata({"raysim_version": "9"}), "written by a later raysim"),
        (None, "is damaged"),
    ],
)
def test_cells_that_cannot_be_read_are_refused(tmp_path: Path, spoil: Any, message: str):
    run(tmp_path)
    part = tmp_path / "parts" / "squares" / "number2.parquet"
    if spoil is None:
        part.write_bytes(b"no table")
    else:
        pq.write_table(spoil(pq.read_table(part)), part)
    with pytest.raises(RecordError, match=message):
        run(tmp_path, resume=True)


def test_rows_with_other_columns_are_refused_and_leave_nothing(tmp_path: Path):
    store = stores.Store(tmp_path, Squares.tables)
    with pytest.raises(RecordError, match="no column 'squar'; did you mean 'square'"):
        store.write(SquaresCell(2), {"squares": [{"repeat": 0, "squar": 4}]})
    assert not store.finished()


def test_a_damaged_plan_is_named(tmp_path: Path):
    run(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(RecordError, match=r"plan\.json is missing or damaged"):
        run(tmp_path, resume=True)


def command(*words: str) -> Any:
    app = typer.Typer(rich_markup_mode=None)
    app.command("squares")(command_of(Squares()))
    app.command("other")(lambda: None)
    return CliRunner().invoke(app, ["squares", *words])


def test_the_command_has_the_plans_options(tmp_path: Path):
    shown = command("--help").stdout
    for text in (
        "Squares of numbers.",
        "--numbers NUMBERS",
        "[default: 2,3]",
        "[default: 1x8x8]",
        "--resume",
    ):
        assert text in shown
    words = ("--numbers", "5", "--image", "3x4x4", "--methods", "a,b,c=1", "--methods", "d", "--out")
    result = command(*words, str(tmp_path / "new"))
    assert result.exit_code == 0, result.stderr
    assert "| 5 | 26.0 (25.5 to 26.5) |" in result.stdout
    assert "1 of 1: number 5: 25" in result.stderr
    plan = json.loads((tmp_path / "new" / "plan.json").read_text())["plan"]
    assert (plan["image"], plan["methods"]) == ([3, 4, 4], ["a", "b,c=1", "d"])


def test_a_traceback_is_shown_where_it_is_asked_for(tmp_path: Path):
    for words, shown in (((), False), (("--debug",), True)):
        result = command("--numbers", "13", "--out", str(tmp_path / "new"), *words)
        assert result.exit_code == 2
        assert ("Traceback" in result.stderr) == shown


@pytest.mark.parametrize("text", ["5,", "a", "1.5", "-1", "5,5", "10,5", "0,5", ","])
def test_numbers_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, text: str):
    if text == "5,":
        assert SquaresPlan(numbers=text).numbers == (5,)
        return
    result = command("--numbers", text, "--out", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: numbers: ")
    assert not (tmp_path / "new").exists()


def test_what_plans_refuse():
    assert SquaresPlan(numbers=" 24, 1_000").numbers == (24, 1000)
    for key, value in (("image", "8x8"), ("methods", "rule=1"), ("methods", "a,a"), ("numbers", (3, 2))):
        with pytest.raises(ConfigError, match=f"^{key}: "):
            SquaresPlan(**{key: value})
    with pytest.raises(ConfigError, match="did you mean 'numbers'"):
        SquaresPlan(number=3)
    with pytest.raises(ConfigError, match="nodes: must be 1 with backend inprocess"):
        OnCluster(nodes=(1, 2), backend="inprocess")
    with pytest.raises(ConfigError, match="nodes: must be one number with kind address"):
        OnCluster(nodes="1,2", kind="address")
    assert PairsPlan(backend="inprocess", defense="krum").nodes == (1,)
    assert PairsPlan(nodes=(2,)).nodes == (2,)
    assert OnCluster().cpus_per_node >= 1
    assert OnCluster(object_store=0.5).cluster["object_store_bytes"] == 2**29


def test_names_of_cells_are_names_of_files():
    @dataclass(frozen=True)
    class Named(Cell):
        label: str
        share: float
        clients: int

    assert Named("krum", 0.5, 24).name == "labelkrum-share0.5-clients24"
    assert Named("pdrr,rule=median lr=0.1", 1.0, 1).name == "labelpdrr,rule=median+lr=0.1-share1-clients1"
    odd = [Named(label, 1.0, 1).name for label in ("a/b", "a+b", "a b", "a:B", "x" * 300, "x" * 301)]
    assert len(set(odd)) == 6
    assert all("/" not in name and ":" not in name and len(name) < 130 for name in odd)
    assert str(Named("pdrr,rule=median", 0.5, 1000)) == "pdrr,rule=median, share 0.5, clients 1,000"


def test_an_order_follows_from_the_seed_and_loses_nothing():
    cells = [SquaresCell(number) for number in range(20)]
    first = shuffled(cells, 0, "squares", 1)
    assert first == shuffled(cells, 0, "squares", 1) != shuffled(cells, 0, "squares", 2)
    assert sorted(first, key=lambda cell: cell.number) == cells != first


def test_values_by_hand():
    values = Values.of([1, 2, 3, float("nan")])
    assert (values.mean, values.median, values.quartiles) == (2.0, 2.0, (1.5, 2.5))
    assert values.half_interval == pytest.approx(4.302653 / np.sqrt(3))
    nothing = Values.of([float("nan")])
    assert np.isnan([nothing.mean, nothing.median, *nothing.quartiles, nothing.half_interval]).all()
    assert np.isnan(Values.of([1.0]).half_interval)


def test_groups_come_in_the_order_of_their_first_row():
    schema = TableSchema("t", columns(a=("string", ""), b=("int32", ""), s=("float64", "")))
    table = schema.table(
        [{"a": a, "b": b, "s": s} for a, b, s in (("x", 2, 1.0), ("y", 1, 2.0), ("x", 2, None))]
    )
    found = gathered(table, "s", "a", "b")
    assert list(found) == [("x", 2), ("y", 1)]
    assert found["x", 2].known.tolist() == [1.0]
    assert found["x", 2].all.size == 2
    assert ordered(table, "a") == ["x", "y"]


def test_progress_says_what_is_left():
    told: list[str] = []
    progress = CellCounter(2, told.append, began=-1e6)
    progress.finished(SquaresCell(2), "4")
    progress.finished(SquaresCell(3))
    assert told[0].startswith("1 of 2: number 2: 4 (")
    assert told[0].endswith(" left)")
    assert told[1] == "2 of 2: number 3"


def test_curves_of_a_figure_are_told_apart():
    looks = [(style(place)["color"], style(place)["marker"]) for place in range(20)]
    assert len(set(looks)) == 20


def test_growth_needs_three_sizes():
    cubic = {size: Values.of([float(size**3)]) for size in (1, 2, 4)}
    few = {size: cubic[size] for size in (1, 2)}
    lines = growth("way", "K", {"a": cubic, "b": few}).splitlines()
    assert lines[2].startswith("| a | 3.00 (3.00 to 3.00), last 3.00")
    assert lines[3] == "| b | needs 3 sizes |"
    table = by_size("K", {"a": cubic, "b": few}, {"said": {4: "x"}}).splitlines()
    assert table[0] == "| K | a | b | said |"
    assert table[-1] == "| 4 | 64.0 |  | x |"


def test_what_has_no_length_does_not_move_the_bars_that_have_one():
    figure = stacked({"": {"krum": {"init": float("nan"), "gram": 2.0, "combine": 1.0}}}, x="s")
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches if bar.get_width()]  # type: ignore[attr-defined]
    assert bars == [(0.0, 2.0), (2.0, 1.0)]
