"""What a study leaves behind: its plan, a Parquet file for every finished cell, the whole tables.

plan.json           what is measured, on which machine, at which commit, when
parts/TABLE/        one file a finished cell; a cell that has one is not measured again
TABLE.parquet       all parts; its metadata hold what plan.json says, as JSON
TABLE.csv           the same, to be read by anything
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.errors import RecordError
from raysim.runs.directory import COLUMNS, environment, write_atomically
from raysim.runs.table_schema import Rows, TableSchema, write_parquet
from raysim.studies.study import About, Cell, Plan

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.backends.telemetry import Span
    from raysim.studies.table import Row

SAME = ("processor", "cpus", "commit", "versions")
"""What of the environment must be the same for cells to stand in one table."""

SPANS = {"cell": ("string", "name of the cell"), **COLUMNS["spans"]}
"""The columns of a table of spans, for studies that keep them."""


@dataclass(frozen=True)
class Store:
    """The folder of one study. tables: the first is written last, and marks its cell as finished."""

    out: Path
    tables: Mapping[str, TableSchema]

    @property
    def whole(self) -> str:
        """The table whose part says that a cell is finished."""
        return next(iter(self.tables))

    def claim(self, plan: Plan, *, resume: bool) -> About:
        """What plan.json now says, once the folder is known to hold no other measurement's cells.

        Raises RecordError for finished cells without `resume`, and where the plan but for its grid, the machine,
        the commit or the libraries were others.
        """
        now = about_now(plan.model_dump(mode="json"))
        now["same"] = json.loads(json.dumps(plan.beside_grid()))
        if self.finished():
            if not resume:
                raise RecordError(
                    f"{self.out} already holds finished cells: --resume, or choose another --out"
                )
            before = read_json(self.out / "plan.json")
            other = _differences(before["same"], now["same"])
            other += _differences(before["environment"], {key: now["environment"][key] for key in SAME})
            if other:
                raise RecordError(
                    f"{self.out} was measured with {'; '.join(other)}: choose another --out, or remove it"
                )
            now["dates"] = [*before["dates"], *now["dates"]]
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / "plan.json", now)
        return now

    def write(self, cell: Cell, rows: Mapping[str, Rows]) -> None:
        """Keep a finished cell: its own fields in the columns that bear their names, beside what was measured.

        One without rows in the first table is not finished.
        """
        own = asdict(cell)
        for table in reversed(list(self.tables)):
            common = {key: own[key] for key in own if key in self.tables[table].columns}
            found = [{**common, **row} for row in rows.get(table, ())]
            if found:
                path = self._part(table, cell)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_parquet(path, self.tables[table].table(found))

    def is_finished(self, cell: Cell) -> bool:
        """Whether a cell was measured."""
        return self._part(self.whole, cell).exists()

    def forget(self, cells: Sequence[Cell]) -> None:
        """What was measured of these cells."""
        for cell in cells:
            for table in self.tables:  # the mark first
                self._part(table, cell).unlink(missing_ok=True)

    def finished(self) -> bool:
        """Whether any cell was."""
        return any((self.out / "parts" / self.whole).glob("*.parquet"))

    def merge(self, cells: Sequence[Cell], about: About) -> dict[str, pa.Table]:
        """Write every table from its parts, those of these cells first and in their order; the tables."""
        import pyarrow as pa
        from pyarrow import csv

        merged = {}
        for name, schema in self.tables.items():
            paths = [self._part(name, cell) for cell in cells]
            rest = sorted(set((self.out / "parts" / name).glob("*.parquet")) - set(paths))
            parts = [schema.read(path) for path in [*paths, *rest] if path.exists()]
            table = pa.concat_tables([schema.empty(), *parts])
            notes = {**(table.schema.metadata or {}), "about": json.dumps(about)}
            merged[name] = table.replace_schema_metadata(notes)
            write_parquet(self.out / f"{name}.parquet", merged[name])
            csv.write_csv(table, self.out / f"{name}.csv")
        return merged

    def _part(self, table: str, cell: Cell) -> Path:
        return self.out / "parts" / table / f"{cell.name}.parquet"


def about_now(plan: Mapping[str, Any]) -> About:
    """What is measured, here and now: `markdown.about_lines` shows it."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return {"plan": dict(plan), "environment": environment(), "dates": [date]}


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON file, whole or not at all."""
    write_atomically(path, json.dumps(values, indent=2).encode())


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; RecordError when it is missing or damaged."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is missing or damaged: {error}") from error
    return values


def span_rows(cell: Cell, spans: Iterable[Span], **more: object) -> list[Row]:
    """Spans as rows of a table of SPANS."""
    return [{"cell": cell.name, **more, **asdict(span)} for span in spans]


def span_of(row: Row) -> Span:
    """The inverse of `span_rows`, for one row."""
    from raysim.backends.telemetry import Span

    return Span(**{part.name: row[part.name] for part in fields(Span)})


def _differences(was: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """`seed 0, not 1` for every key that differs, inside mappings too."""
    found = []
    for key, value in wanted.items():
        before = was.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            found += _differences(before, value)
        elif before != value:
            found.append(f"{key} {before!r}, not {value!r}")
    return found
