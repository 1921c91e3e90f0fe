"""The tables of a scaling measurement, read: stages and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raysim.studies.table import Row

COPY, GRAM = "copy", "gram"
"""The stages of LIMITS that are limits."""


class Setup(NamedTuple):
    """Where and on what was measured; only measurements of one setup are compared with each other."""

    kind: str
    cpus_per_node: int
    bandwidth: str
    backend: str
    updates: str

    @property
    def title(self) -> str:
        """In words: ray, kind raylets, 2 CPUs a node, synthetic updates."""
        links = f", links of {self.bandwidth}" if self.bandwidth else ""
        updates = "synthetic updates" if self.updates == "synthetic" else f"the updates of {self.updates}"
        cpus = "1 CPU" if self.cpus_per_node == 1 else f"{self.cpus_per_node} CPUs"
        kind = "" if self.kind == self.backend else f", kind {self.kind}"
        return f"{self.backend}{kind}, {cpus} a node{links}, {updates}"


class MatrixSize(NamedTuple):
    """K clients, d parameters, n nodes."""

    clients: int
    parameters: int
    nodes: int

    @property
    def matrix_bytes(self) -> int:
        """The whole matrix K x d, float32."""
        return 4 * self.clients * self.parameters


class Subject(NamedTuple):
    """A stage of a defense in a setup: what a growth exponent belongs to."""

    setup: Setup
    defense: str
    stage: str


@dataclass(frozen=True)
class Measured:
    """One stage of one defense at one size, over its repeats. Arrays: [R], in the order of (seed, repeat).

    A stage that did not run in a repeat has no entry for it.
    """

    setup: Setup
    defense: str
    stage: str
    size: MatrixSize
    model: str
    order: int
    runs: tuple[tuple[int, int], ...]
    """(seed, repeat) of each entry."""
    started_s: np.ndarray
    """Seconds since the epoch."""
    wall_s: np.ndarray
    bytes_moved: np.ndarray
    tasks: int
    nodes_used: int
    peak_memory_bytes: int
    spilled_bytes: int
    digests: tuple[str, ...]

    @property
    def subject(self) -> Subject:
        """What its growth exponent belongs to."""
        return Subject(self.setup, self.defense, self.stage)

    @property
    def median_s(self) -> float:
        """Median wall-clock seconds."""
        return float(np.median(self.wall_s))

    @property
    def quartiles_s(self) -> tuple[float, float]:
        """First and third quartile of the seconds (numpy's linear interpolation)."""
        low, high = np.percentile(self.wall_s, [25, 75])
        return float(low), float(high)


@dataclass(frozen=True)
class PeakMemory:
    """One node's memory in bytes, the largest over the repeats; what each number is says scaling_tables.COLUMNS."""

    setup: Setup
    defense: str
    size: MatrixSize
    node: int
    worker_bytes: int
    largest_worker_bytes: int
    store_bytes: int


def read_stages(rows: Iterable[Row], planned: Sequence[str]) -> list[Measured]:
    """The stages, one entry a stage, ordered by setup, defense (as planned), size and place in the pipeline."""
    grouped: dict[tuple[Setup, str, MatrixSize, str], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[setup_of(row), row["defense"], size_of(row), row["stage"]].append(row)
    entries = [_measured(*key, found) for key, found in grouped.items()]
    names = list(dict.fromkeys([*planned, *(entry.defense for entry in entries)]))
    return sorted(entries, key=lambda m: (m.setup, names.index(m.defense), m.size, m.order, m.stage))


def read_memory(rows: Iterable[Row]) -> list[PeakMemory]:
    """Memory, one entry a node."""
    grouped: dict[tuple[Setup, str, MatrixSize, int], list[Row]] = defaultdict(list)
    for row in rows:
        grouped[setup_of(row), row["defense"], size_of(row), row["node"]].append(row)
    names = ("worker_bytes", "largest_worker_bytes", "store_bytes")
    return [
        PeakMemory(*key, *(max(row[name] for row in found) for name in names))
        for key, found in sorted(grouped.items())
    ]


def _measured(setup: Setup, defense: str, size: MatrixSize, stage: str, rows: list[Row]) -> Measured:
    rows = sorted(rows, key=lambda row: (row["seed"], row["repeat"]))
    return Measured(
        setup=setup,
        defense=defense,
        stage=stage,
        size=size,
        model=rows[0]["model"],
        order=min(row["order"] for row in rows),
        runs=tuple((row["seed"], row["repeat"]) for row in rows),
        started_s=np.array([row["started_s"] for row in rows], np.float64),
        wall_s=np.array([row["wall_s"] for row in rows], np.float64),
        bytes_moved=np.array([row["bytes_moved"] for row in rows], np.int64),
        tasks=max(row["tasks"] for row in rows),
        nodes_used=max(row["nodes_used"] for row in rows),
        peak_memory_bytes=max(row["peak_memory_bytes"] for row in rows),
        spilled_bytes=max(row["spilled_bytes"] for row in rows),
        digests=tuple(row["digest"] for row in rows),
    )


def setup_of(row: Row) -> Setup:
    """Where a row was measured."""
    return Setup(*(row[name] for name in Setup._fields))


def size_of(row: Row) -> MatrixSize:
    """At which size."""
    return MatrixSize(*(row[name] for name in MatrixSize._fields))
