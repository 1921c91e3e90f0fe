"""The tables of `raysim bench growth`."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.runs.table_schema import Columns, TableSchema
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

TABLES: Mapping[str, TableSchema] = {
    "rounds": TableSchema("rounds", COLUMNS["rounds"]),
    "memory": TableSchema("memory", COLUMNS["memory"]),
    "spans": TableSchema("spans", SPANS),
}
"""Rounds, memory, which only the last repeat measures, and the spans of the rounds that were timed."""
