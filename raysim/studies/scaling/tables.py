"""The tables of `raysim bench scaling`."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.runs.table_schema import Columns, TableSchema
from raysim.studies.store import SPANS

LIMITS = "(limits)"
"""The `defense` of rows that measure no defense: drawing the matrix, one copy of it, one Gram product."""
WHOLE = "(whole)"
"""The `stage` of the row for an entire `apply`."""
BETWEEN = "(between stages)"
"""That of the row for what no stage covers."""

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

COLUMNS: Mapping[str, Columns] = {
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

TABLES: Mapping[str, TableSchema] = {
    "stages": TableSchema("stages", COLUMNS["stages"]),
    "memory": TableSchema("memory", COLUMNS["memory"]),
    "spans": TableSchema("spans", SPANS),
}
"""Stages, memory, which only the last repeat measures, and all spans of what was timed."""
