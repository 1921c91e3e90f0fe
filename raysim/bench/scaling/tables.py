"""The tables of `raysim bench scaling`: their columns, a part for every finished cell, and putting parts together.

plan.json           what is measured, and on which machines it was
parts/stages/       one Parquet file a finished cell; a cell that has one is not measured again
parts/memory/       the same for memory, which only the last repeat measures
stages.parquet      all parts; its metadata hold the plan and the environment, as JSON
memory.parquet
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.errors import RecordError
from raysim.records import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

LIMITS = "(limits)"
"""The `defense` of rows that measure no defense: drawing the matrix, one copy of it, one Gram product."""
WHOLE = "(whole)"
"""The `stage` of the row for an entire `apply`."""

SUBJECT = {
    "defense": ("string", "the defense with the options it was given; (limits): none"),
    "clients": ("int32", "K, rows of the matrix"),
    "malicious": ("int32", "of them"),
    "model": ("string", "whose parameters are the columns"),
    "parameters": ("int64", "d, columns of the matrix"),
    "nodes": ("int32", "nodes of the cluster"),
    "kind": ("string", "what the cluster was made of; inprocess: there was none"),
    "cpus_per_node": ("int32", "CPUs of each node"),
    "bandwidth": ("string", "limit of each link, in tc's notation; empty: none"),
    "backend": ("string", "ray or inprocess"),
    "updates": ("string", "synthetic, or the name of the run that was recorded"),
    "seed": ("int64", "what the matrix and the orders are drawn from"),
    "repeat": ("int32", "from 0"),
}

COLUMNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "stages": {
        **SUBJECT,
        "stage": ("string", "name; (between stages): what no stage covers; (whole): the entire apply"),
        "order": ("int32", "position in the pipeline; -1: the whole"),
        "wall_s": ("float64", "wall-clock seconds as the server sees them, waiting and transfers included"),
        "cpu_s": ("float64", "processor seconds of all processes"),
        "tasks": ("int32", "tasks"),
        "nodes_used": ("int32", "nodes that ran any of them"),
        "bytes_in": ("int64", "bytes of arrays in the tasks' arguments"),
        "bytes_out": ("int64", "bytes of arrays in their results"),
        "bytes_moved": ("int64", "bytes of arguments that were brought from other nodes"),
        "peak_memory_bytes": ("int64", "largest resident memory of any one process meanwhile"),
        "spilled_bytes": (
            "int64",
            "bytes that object stores wrote to disk in the cell, warm-up included; (whole) and draw only",
        ),
        "started_s": ("float64", "start of the apply, seconds since the epoch"),
        "digest": ("string", "SHA-256 of the verdict, (whole) only: equal for all nodes and repeats"),
    },
    "memory": {
        **SUBJECT,
        "node": ("int32", "0: the head, where the server is"),
        "worker_bytes": (
            "int64",
            "peak of the sum over worker processes (on the head, the server's too) of unshared resident memory",
        ),
        "largest_worker_bytes": ("int64", "peak of any one of them"),
        "store_bytes": ("int64", "object store in use after the apply"),
    },
}
"""Table -> column -> (type, meaning)."""

Rows = Sequence[Mapping[str, Any]]


def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table."""
    import pyarrow as pa

    columns = COLUMNS[table].items()
    return pa.schema([pa.field(name, getattr(pa, kind)()) for name, (kind, _) in columns])


def write_cell(out: Path, cell: str, stages: Rows, memory: Rows) -> None:
    """Keep a finished cell; its stages last, for they say that it is whole."""
    if memory:
        _write_rows(_part(out, "memory", cell), "memory", memory)
    _write_rows(_part(out, "stages", cell), "stages", stages)


def is_finished(out: Path, cell: str) -> bool:
    """Whether a cell was measured."""
    return _part(out, "stages", cell).exists()


def has_finished(out: Path) -> bool:
    """Whether any cell was."""
    return any((out / "parts" / "stages").glob("*.parquet"))


def merge(out: Path, about: Mapping[str, Any]) -> None:
    """Write both tables from all parts; `about` goes into their metadata, as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes = {"about": json.dumps(about)}
    for table in COLUMNS:
        parts = sorted((out / "parts" / table).glob("*.parquet"))
        try:
            read = [pq.read_table(part, schema=schema(table)) for part in parts]
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"a part of {table} in {out} is damaged: {error}") from error
        whole = pa.concat_tables(read) if read else schema(table).empty_table()
        _write(out / f"{table}.parquet", whole.replace_schema_metadata(notes).combine_chunks())


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


def _part(out: Path, table: str, cell: str) -> Path:
    return out / "parts" / table / f"{cell}.parquet"


def _write_rows(path: Path, table: str, rows: Rows) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, pa.Table.from_pylist(list(rows), schema=schema(table)))


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.stem}.tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)
