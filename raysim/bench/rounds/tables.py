"""The tables of `raysim bench rounds` over a grid: their columns, a part for every repeat of a cell, putting them together.

plan.json        what is measured, on which machine, and which cells were left out
parts/rounds/    one Parquet file a cell and repeat; what has one is not measured again
parts/memory/    the same for memory, which only the last repeat measures
rounds.parquet   all parts; its metadata hold what plan.json says, as JSON
memory.parquet
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.errors import RecordError

if TYPE_CHECKING:
    import pyarrow as pa

CELL = {
    "case": ("string", "name of the case"),
    "model": ("string", "what the clients train"),
    "parameters": ("int64", "d, its parameters"),
    "clients": ("int32", "K; all of them take part in every round"),
    "nodes": ("int32", "nodes of the cluster"),
    "kind": ("string", "what the cluster was made of"),
    "bandwidth": ("string", "limit of each link, in tc's notation; empty: none"),
    "cpus_per_node": ("int32", "CPUs of each node"),
    "gpus_per_node": ("int32", "GPUs of each node"),
    "clients_per_actor": ("string", "what was asked for: a number, or auto"),
    "client_gpus": ("float64", "share of a GPU that one client reserves"),
    "cohort_size": ("int32", "clients that train together, by training.cohort_size's rule; never parted"),
    "actors": ("int32", "client actors there were"),
    "actor_nodes": ("int32", "nodes they sat on"),
    "actor_gpus": ("int32", "GPUs they shared"),
    "seed": ("int64", "of the run, and of the order of cells"),
    "repeat": ("int32", "from 0; each has actors of its own"),
}

COLUMNS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "rounds": {
        **CELL,
        "round": ("int32", "of those that were timed, from 0"),
        "stage": ("string", "name; (between stages): what no stage covers; (whole): the round"),
        "order": ("int32", "position in the round; -1: the whole"),
        "wall_s": ("float64", "wall-clock seconds as the server sees them, waiting and transfers included"),
        "cpu_s": ("float64", "processor seconds of all processes"),
        "tasks": ("int32", "tasks and calls of actors"),
        "nodes_used": ("int32", "nodes that ran any of them"),
        "bytes_in": ("int64", "bytes of arrays in the tasks' arguments"),
        "bytes_out": ("int64", "bytes of arrays in their results"),
        "bytes_moved": ("int64", "bytes of arguments that were brought from other nodes"),
        "peak_memory_bytes": ("int64", "largest resident memory of any one process meanwhile"),
        "started_s": ("float64", "start, seconds since the epoch"),
        "digest": ("string", "SHA-256 of the global vector after the round, (whole) only"),
    },
    "memory": {
        **CELL,
        "node": ("int32", "0: the head, where the server is"),
        "worker_bytes": ("int64", "peak of the sum over worker processes of unshared resident memory"),
        "largest_worker_bytes": ("int64", "peak of any one of them"),
        "store_bytes": ("int64", "object store in use after the round"),
    },
}
"""Table -> column -> (type, meaning)."""

Rows = Sequence[Mapping[str, Any]]


def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table."""
    import pyarrow as pa

    return pa.schema([pa.field(name, getattr(pa, kind)()) for name, (kind, _) in COLUMNS[table].items()])


def write_part(out: Path, part: str, rounds: Rows, memory: Rows) -> None:
    """Keep a finished repeat of a cell; its rounds last, for they say that it is whole."""
    import pyarrow as pa

    for table, rows in (("memory", memory), ("rounds", rounds)):
        if rows:
            path = _part(out, table, part)
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, pa.Table.from_pylist(list(rows), schema=schema(table)))


def is_finished(out: Path, part: str) -> bool:
    """Whether it was measured."""
    return _part(out, "rounds", part).exists()


def has_finished(out: Path) -> bool:
    """Whether anything was."""
    return any((out / "parts" / "rounds").glob("*.parquet"))


def merge(out: Path, about: Mapping[str, Any]) -> None:
    """Write both tables from all parts; `about` goes into their metadata, as JSON."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for table in COLUMNS:
        parts = sorted((out / "parts" / table).glob("*.parquet"))
        try:
            read = [pq.read_table(part, schema=schema(table)) for part in parts]
        except (OSError, pa.ArrowException) as error:
            raise RecordError(f"a part of {table} in {out} is damaged: {error}") from error
        whole = pa.concat_tables(read) if read else schema(table).empty_table()
        notes = {"about": json.dumps(about)}
        _write(out / f"{table}.parquet", whole.replace_schema_metadata(notes).combine_chunks())


def _part(out: Path, table: str, part: str) -> Path:
    return out / "parts" / table / f"{part}.parquet"


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.stem}.tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)
