"""The tables of `raysim bench scaling`."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.runs.table_schema import Columns, TableSchema
from raysim.studies.stages import MEMORY_COLUMNS, STAGE_COLUMNS
from raysim.studies.store import SPANS

LIMITS = "(limits)"
"""The `defense` of rows that measure no defense: drawing the matrix, one copy of it, one Gram product."""

SUBJECT = {
    "defense": ("string", "the defense with the options it was given; (limits): none"),
    "clients": ("int32", "K, rows of the matrix"),
    "malicious": ("int32", "of them"),
    "model": ("string", "whose parameters are the columns"),
    "parameters": ("int64", "d, columns of the matrix"),
    "nodes": ("int32", "nodes of the cluster"),
    "kind": ("string", "what the cluster was made of; inprocess: there was none"),
    "cpus_per_node": ("int32", "CPUs of each node"),
    "machine_cpus": (
        "int32",
        "CPUs of the machine that all nodes share; 0: each node is a machine of its own",
    ),
    "bandwidth": ("string", "limit of each link, in tc's notation; empty: none"),
    "backend": ("string", "ray or inprocess"),
    "updates": ("string", "synthetic, or the name of the run that was recorded"),
    "seed": ("int64", "what the matrix and the orders are drawn from"),
    "repeat": ("int32", "from 0"),
}

COLUMNS: Mapping[str, Columns] = {
    "stages": {
        **SUBJECT,
        **STAGE_COLUMNS,
        "spilled_bytes": (
            "int64",
            "bytes that object stores wrote to disk in the cell, warm-up included; (whole) and draw only",
        ),
    },
    "memory": {
        **SUBJECT,
        **MEMORY_COLUMNS,
    },
}
"""Table -> column -> (type, meaning)."""

TABLES: Mapping[str, TableSchema] = {
    "stages": TableSchema("stages", COLUMNS["stages"]),
    "memory": TableSchema("memory", COLUMNS["memory"]),
    "spans": TableSchema("spans", SPANS),
}
"""Stages, memory, which only the last repeat measures, and all spans of what was timed."""
