"""The tables of `raysim bench growth`."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.runs.table_schema import Columns, TableSchema
from raysim.studies.stages import MEMORY_COLUMNS, STAGE_COLUMNS
from raysim.studies.store import SPANS

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
    "rule": ("string", "the defense, with its options"),
    "clients_per_actor": ("string", "what was asked for: a number, or auto"),
    "client_gpus": ("float64", "share of a GPU that one client reserves"),
    "clients_per_stack": (
        "int32",
        "clients that train together, by training.clients_per_stack's rule; never parted",
    ),
    "actors": ("int32", "client actors there were"),
    "actor_nodes": ("int32", "nodes they sat on"),
    "actor_gpus": ("int32", "GPUs they shared"),
    "seed": ("int64", "of the run, and of the order of cells"),
    "repeat": ("int32", "from 0; each has actors of its own"),
}

COLUMNS: Mapping[str, Columns] = {
    "rounds": {
        **CELL,
        "round": ("int32", "of those that were timed, from 0"),
        **STAGE_COLUMNS,
    },
    "memory": {
        **CELL,
        **MEMORY_COLUMNS,
    },
}
"""Table -> column -> (type, meaning)."""

TABLES: Mapping[str, TableSchema] = {
    "rounds": TableSchema("rounds", COLUMNS["rounds"]),
    "memory": TableSchema("memory", COLUMNS["memory"]),
    "spans": TableSchema("spans", SPANS),
}
"""Rounds, memory, which only the last repeat measures, and the spans of the rounds that were timed."""
