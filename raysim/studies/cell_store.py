"""Grids that are measured cell by cell: plan.json, a Parquet file for every finished cell, the driver on each cluster.

plan.json           what is measured, and on which machine
parts/TABLE/        one file a finished cell; a cell that has one is not measured again
TABLE.parquet       all parts; its metadata hold what plan.json says, as JSON
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.errors import RaysimError, RecordError, RunError
from raysim.runs.directory import environment, write_atomically
from raysim.runs.table_schema import Rows, TableSchema, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.clusters import Cluster

Columns = Mapping[str, Mapping[str, tuple[str, str]]]
"""Table -> column -> (type, meaning)."""


@dataclass(frozen=True)
class Parts:
    """The tables of a grid. whole: the table written last; its part marks the cell as finished."""

    columns: Columns
    whole: str

    def of(self, table: str) -> TableSchema:
        """What a table holds."""
        return TableSchema(table, self.columns[table])

    def schema(self, table: str) -> pa.Schema:
        """The Arrow schema of a table."""
        return self.of(table).arrow

    def write(self, out: Path, cell: str, rows: Mapping[str, Rows]) -> None:
        """Keep a finished cell: the rows of each table; tables without rows get no part."""
        for table in sorted(rows, key=lambda name: name == self.whole):
            if rows[table]:
                content = self.of(table).table(rows[table])
                path = self._part(out, table, cell)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_parquet(path, content)

    def is_finished(self, out: Path, cell: str) -> bool:
        """Whether a cell was measured."""
        return self._part(out, self.whole, cell).exists()

    def has_finished(self, out: Path) -> bool:
        """Whether any cell was."""
        return any((out / "parts" / self.whole).glob("*.parquet"))

    def merge(self, out: Path, about: Mapping[str, Any]) -> None:
        """Write every table from all its parts; `about` goes into their metadata, as JSON."""
        import pyarrow as pa

        for table in self.columns:
            parts = sorted((out / "parts" / table).glob("*.parquet"))
            whole = pa.concat_tables([self.of(table).empty(), *map(self.of(table).read, parts)])
            notes = {**(whole.schema.metadata or {}), "about": json.dumps(about)}
            write_parquet(out / f"{table}.parquet", whole.replace_schema_metadata(notes))

    def claim(
        self,
        out: Path,
        method: Mapping[str, Any],
        method_of: Callable[[dict[str, Any]], Mapping[str, Any]],
        *,
        resume: bool,
    ) -> dict[str, Any]:
        """This machine's environment, once `out` is known to hold no other measurement's cells.

        method: everything but the grid; method_of: the same of an earlier plan in plan.json. Raises RecordError
        where they or the machines differ, and for finished cells without `resume`.
        """
        machine = environment()
        if self.has_finished(out):
            if not resume:
                raise RecordError(f"{out} already holds finished cells: --resume, or choose another --out")
            before = read_json(out / "plan.json")
            was = method_of(before["plan"])
            other = [f"{key} {was[key]!r}, not {method[key]!r}" for key in method if was[key] != method[key]]
            for key in ("processor", "cpus"):
                if before["environment"][key] != machine[key]:
                    other.append(f"{key} {before['environment'][key]!r}, not {machine[key]!r}")
            if other:
                raise RecordError(f"{out} was measured with {'; '.join(other)}")
        out.mkdir(parents=True, exist_ok=True)
        return machine

    def _part(self, out: Path, table: str, cell: str) -> Path:
        return out / "parts" / table / f"{cell}.parquet"


def run_driver(cluster: Cluster, module: str, out: Path, nodes: int) -> None:
    """Run a grid's driver on a cluster to its end; RunError where it fails: the cells it finished stay."""
    status = cluster.run([sys.executable, "-m", module, str(out.resolve()), str(nodes)])
    if status:
        raise RunError(
            f"the driver on {nodes} nodes ended with status {status}; finished cells are kept: --resume"
        )


def driver_main(measure: Callable[[dict[str, Any], Path, int], None]) -> None:
    """A driver's main: measure(plan.json's plan, OUT, NODES); status 1 and one line that says why for own errors."""
    out, nodes = Path(sys.argv[1]), int(sys.argv[2])
    try:
        measure(read_json(out / "plan.json")["plan"], out, nodes)
    except RaysimError as error:
        sys.exit("error: " + " ".join(str(error).split()))


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
