"""`raysim reproduce`: the cells of a paper's tables, a run a seed, and its numbers beside the measured ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raysim.config.load import load_config
from raysim.errors import ConfigError, DataError, RunError, unknown_name
from raysim.options import PositiveInt
from raysim.presets import PAPERS, Preset, Scale, generated
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.of_runs import OfRuns, placed
from raysim.studies.options import Seeds, Words, Written
from raysim.studies.papers.drawn import DRAWN
from raysim.studies.study import Bench, Cell, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.config.schema import ExperimentConfig


class ReproducePlan(OfRuns):
    """A paper, which of its tables and cells, at which scale, and the seeds."""

    grid: ClassVar = OfRuns.grid | {"table", "match", "seeds"}
    paper: Annotated[str, Written("gcama|layercam_ae|fedgrad|pdrr|flare", argument=True)] = Field(
        description="whose"
    )
    overrides: Annotated[tuple[str, ...], Written("KEY=VALUE", argument=True, many=True)] = Field(
        (), description="keys to change in every cell"
    )
    table: Annotated[Words, Written("N,...")] = Field(
        (), description="3 or table3, fig7, with commas between, or all; default: those that report numbers"
    )
    scale: Scale = Field("paper", description="the full setting, or its structure in seconds a cell")
    match: Annotated[str, Written("TEXT")] = Field("", description="only cells with this in their name")
    seeds: Seeds = Field((0, 1, 2), description="with commas between; a run each of every cell")
    backend: Literal["ray", "inprocess"] | None = Field(
        None, description="default: ray at paper scale, inprocess at small", validate_default=True
    )

    workers: PositiveInt = Field(1, description="runs at a time: more would disturb each other's seconds")

    @model_validator(mode="after")
    def _known(self) -> Self:
        _ = self.tables
        return self

    @property
    def where(self) -> Literal["ray", "inprocess"]:
        """See OfRuns."""
        return self.backend or ("ray" if self.scale == "paper" else "inprocess")

    @property
    def tables(self) -> dict[str, list[Preset]]:
        """Table -> its presets, those that match."""
        found = select(self.paper, self.table)
        kept = {name: [cell for cell in cells if self.match in cell.name] for name, cells in found.items()}
        if not any(kept.values()):
            raise ConfigError("match", "must be part of the name of a cell", self.match)
        return {name: cells for name, cells in kept.items() if cells}

    def config(self, cell: ReproduceCell) -> ExperimentConfig:
        """The run of one cell."""
        return load_config(cell.preset, [*self.overrides, f"seed={cell.seed}"], scale=self.scale)


@dataclass(frozen=True)
class ReproduceCell(Cell):
    """One run of a preset."""

    preset: str
    seed: int

    @property
    def run(self) -> str:
        """Its folder, below the study's."""
        return f"runs/{self.preset}/seed-{self.seed}"


class Reproduce(Study[ReproducePlan, ReproduceCell]):
    """Run the experiments of a paper, and print its numbers beside the measured ones.

    \b
    raysim reproduce flare --scale small
    raysim reproduce pdrr --table 1,fig4 --scale small --seeds 0
    raysim reproduce layercam_ae --table 4 --match cifar100 --address 10.0.0.1:6379

    Each cell is a preset (raysim list presets) and each seed a run under DIR/runs; with --resume what is finished there
    is not run again, what is unfinished goes on, and tables and seeds may be added. At small scale, the notes say what
    stands in for the paper's data and network.
    """

    name = "reproduce"
    plan = ReproducePlan
    title = "Reported beside measured"
    tables: ClassVar = {
        "measures": TableSchema(
            "measures",
            columns(
                preset=("string", "the cell"),
                seed=("int64", "of the run"),
                measure=("string", "see raysim.studies.papers.measures"),
                value=("float64", "null if the run does not define it"),
            ),
        ),
        "drawn": TableSchema("drawn", DRAWN),
    }

    def cells(self, plan: ReproducePlan) -> list[ReproduceCell]:
        """Cell by cell, the seeds of each together."""
        return [
            ReproduceCell(preset.name, seed)
            for presets in plan.tables.values()
            for preset in presets
            for seed in plan.seeds
        ]

    def check(self, plan: ReproducePlan) -> tuple[str, ...]:
        """Refuse keys that do not exist."""
        plan.config(self.cells(plan)[0])
        return ()

    def around(self, plan: ReproducePlan) -> contextlib.AbstractContextManager[ReproducePlan]:
        """See placed."""
        return placed(plan, plan.config(self.cells(plan)[0]))

    def measure(self, plan: ReproducePlan, cell: ReproduceCell, bench: Bench) -> Mapping[str, Rows]:
        """Finish the run and measure it; no row if it failed or lacks data: the next attempt tries again."""
        from raysim.studies.kept_runs import finish
        from raysim.studies.papers.drawn import drawn_rows
        from raysim.studies.papers.measures import measure

        preset, path = generated()[cell.preset], bench.out / cell.run
        try:
            finish(plan.config(cell), path, plan.where, plan.address, plan.tracker)
        except (DataError, RunError) as error:
            print(f"{cell.preset}, seed {cell.seed}: {error}", file=sys.stderr, flush=True)
            return {"measures": []}
        found = measure(path, preset, preset.metrics)
        return {
            "measures": [{"measure": key, "value": value} for key, value in found.items()],
            "drawn": drawn_rows(path, preset.drawn),
        }

    def page(self, plan: ReproducePlan, tables: Mapping[str, pa.Table]) -> Page:
        """See page.py."""
        from raysim.studies.papers.page import page_of

        return page_of(plan, tables)


def select(paper: str, wanted: Sequence[str] = ()) -> dict[str, list[Preset]]:
    """Table -> its presets, of the tables and figures wanted, in that order, of `all`, or of those with reported numbers.

    `3` is short for `table3`. ConfigError for what the paper does not have.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    tables: dict[str, list[Preset]] = {}
    for preset in generated().values():
        if preset.source == paper:
            tables.setdefault(preset.table, []).append(preset)
    if tuple(wanted) == ("all",):
        return tables
    if not wanted:
        return {name: cells for name, cells in tables.items() if any(cell.reported for cell in cells)}
    names = [f"table{name}" if name[0].isdigit() else name for name in wanted]
    for name in names:
        if name not in tables:
            raise unknown_name("table", name, tables)
    return {name: tables[name] for name in names}
