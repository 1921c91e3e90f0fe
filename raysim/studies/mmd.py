"""FLARE's MMD between all pairs of clients: seconds and memory against the clients n and the samples m of each."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim import rng
from raysim.backends.base import Backend, ThreadLimit
from raysim.errors import ConfigError
from raysim.formats import significant
from raysim.studies.costs.defense_cost import seconds
from raysim.studies.costs.kernels import kernel_context, plain_mmd
from raysim.studies.process_memory import MemoryWatch
from raysim.studies.study import (
    Study,
    Times,
    finish,
    growth_text,
    markdown_table,
    panels,
    settings_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOOP_PAIRS = 100
"""How many pairs the plain loop is timed on, spread over all; its time for all pairs is scaled up from these."""


@dataclass(frozen=True)
class MMDPlan:
    """Sizes: clients n, samples m a client, features o a sample."""

    clients: tuple[int, ...] = (10, 20, 50, 100, 200, 500, 1000)
    samples: tuple[int, ...] = (5, 10, 20, 50, 100)
    features: int = 128
    repeats: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value in (("clients", self.clients[0]), ("samples", self.samples[0])):
            if value < 2:
                raise ConfigError(key, "must be at least 2 each", value, 2)
        for key in ("features", "repeats"):
            if getattr(self, key) < 1:
                raise ConfigError(key, "must be at least 1", getattr(self, key), 1)

    def cells(self) -> list[tuple[int, int]]:
        """(n, m) of every measurement, fewest samples in all first."""
        return sorted(
            ((n, m) for n in self.clients for m in self.samples), key=lambda cell: (cell[0] * cell[1], cell)
        )


def samples_of(plan: MMDPlan, clients: int, samples: int) -> np.ndarray:
    """What stands for the clients' representations of m inputs: [n, m, o] float32, each client around its own mean."""
    draw = rng.generator(plan.seed, "bench", "mmd", clients, samples)
    sets = draw.standard_normal((clients, samples, plan.features), np.float32)
    sets += draw.standard_normal((clients, 1, plan.features), np.float32)
    return sets


def measure(
    plan: MMDPlan, backend: Backend, workers: int, tell: Callable[[str], None] = lambda line: None
) -> Study:
    """Memory in a pass of its own that also warms up, then the times, then the plain loop, for every n and m."""
    from defenses.mmd import centred, median_squared_distance, pairwise_mmd

    ctx = kernel_context(backend, plan.seed)

    def all_pairs(sets: np.ndarray) -> None:
        points = centred(sets)
        squared = median_squared_distance(points.reshape(-1, plan.features))
        pairwise_mmd(points, ctx, squared_bandwidth=squared)

    ctx.map("warm up", _begin, [0.2] * workers)
    all_pairs(samples_of(plan, 2, 2))
    growth: dict[tuple[int, int], int] = {}
    with MemoryWatch() as watch:
        for cell in plan.cells():
            tell(f"memory: {cell[0]} clients, {cell[1]} samples")
            all_pairs(samples_of(plan, *cell))
            growth[cell] = watch.growth
    rows = []
    for clients, samples in plan.cells():
        tell(f"seconds: {clients} clients, {samples} samples")
        sets = samples_of(plan, clients, samples)
        gc.collect()
        spent = tuple(seconds(all_pairs, sets) for _ in range(plan.repeats))
        squared = median_squared_distance(sets.reshape(-1, plan.features))
        loop_s, timed = plain_loop_s(sets, squared)
        backend.telemetry.drain()
        rows.append(
            {
                **{"clients": clients, "samples": samples, "features": plan.features},
                **Times(spent).columns(),
                "loop_s": loop_s,
                "loop_pairs_timed": timed,
                "private_growth_bytes": growth[clients, samples],
            }
        )
    rows.sort(key=lambda row: (row["clients"], row["samples"]))
    settings = settings_of(plan, backend=type(backend).__name__, workers=workers)
    sections = [
        _seconds_table(plan, rows),
        _memory_table(plan, rows),
        _growth_tables(plan, rows),
        _notes(plan),
    ]
    return Study(
        "mmd", "FLARE's MMD between all pairs of clients", settings, rows, sections, _figure(plan, rows)
    )


def _begin(pause_s: float) -> None:
    """Have a worker process load what it will need, and be busy while the others are given theirs."""
    import defenses.mmd  # noqa: F401

    time.sleep(pause_s)


def plain_loop_s(sets: np.ndarray, squared_bandwidth: float) -> tuple[float, int]:
    """(seconds of a plain loop over all pairs i < j, pairs it was timed on and scaled up from)."""
    left, right = np.triu_indices(len(sets), 1)
    chosen = np.unique(np.linspace(0, len(left) - 1, min(LOOP_PAIRS, len(left))).astype(int))
    with ThreadLimit(1)():
        spent = seconds(lambda: [plain_mmd(sets[left[k]], sets[right[k]], squared_bandwidth) for k in chosen])
    return spent / len(chosen) * len(left), len(chosen)


def _grid(
    plan: MMDPlan, rows: Sequence[dict[str, Any]], corner: str, cell: Callable[[dict[str, Any]], str]
) -> str:
    """A table of n down and m across."""
    found = {(row["clients"], row["samples"]): cell(row) for row in rows}
    head = [corner, *(f"m = {samples}" for samples in plan.samples)]
    return markdown_table(head, [[f"{n:,}", *(found[n, m] for m in plan.samples)] for n in plan.clients])


def _seconds_table(plan: MMDPlan, rows: Sequence[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any]) -> str:
        return f"{Times(tuple(row['wall_s']))}; {significant(row['loop_s'])}"

    return _grid(plan, rows, "n; seconds in tiles; a plain loop", cell)


def _memory_table(plan: MMDPlan, rows: Sequence[dict[str, Any]]) -> str:
    return _grid(plan, rows, "n; private memory (MB)", lambda row: f"{row['private_growth_bytes'] / 1e6:.0f}")


def _growth_tables(plan: MMDPlan, rows: Sequence[dict[str, Any]]) -> str:
    along = (("clients", "samples", "m"), ("samples", "clients", "n"))
    cells = []
    for size, fixed, letter in along:
        for value in sorted({row[fixed] for row in rows}):
            line = sorted((row for row in rows if row[fixed] == value), key=lambda row: row[size])
            text = growth_text([row[size] for row in line], [row["median_s"] for row in line])
            cells.append([f"{size}, {letter} = {value:,}", text])
    return markdown_table(["seconds grow with", "to the power of (95 % interval), last two sizes"], cells)


def _notes(plan: MMDPlan) -> str:
    return (
        f"Seconds: median of {plan.repeats} (first to third quartile) for the bandwidth and all n x n values from one"
        " kernel matrix in tiles; behind the semicolon a plain loop in this process, one thread, over pairs i < j, three kernel"
        f" blocks a pair, timed on at most {LOOP_PAIRS} pairs and scaled up. Private memory: what the process that"
        " grew most has gained since before the first size, samples included, in a pass of its own. Sizes run from"
        " the fewest n m to the most, and the largest so far counts, because processes may keep memory they freed."
    )


def _figure(plan: MMDPlan, rows: Sequence[dict[str, Any]]) -> Figure:
    from matplotlib import colormaps

    figure, (cost, memory) = panels(2)
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(plan.samples)))
    for samples, shade, mark in zip(plan.samples, shades, "os^Dv<>PX*" * len(plan.samples), strict=False):
        line = [row for row in rows if row["samples"] == samples]
        at = [row["clients"] for row in line]
        style: dict[str, Any] = {"color": shade, "marker": mark, "ms": 5, "lw": 1.4}
        cost.plot(at, [row["median_s"] for row in line], label=f"m = {samples}", **style)
        if samples in (plan.samples[0], plan.samples[-1]):
            plain: dict[str, Any] = {**style, "ls": ":", "mfc": "white"}
            cost.plot(at, [row["loop_s"] for row in line], label=f"plain loop, m = {samples}", **plain)
        grown = [row["private_growth_bytes"] / 1e6 or np.nan for row in line]
        memory.plot(at, grown, label=f"m = {samples}", **style)
    finish(cost, title="Seconds, all pairs", x="clients, n", ticks=plan.clients)
    finish(memory, title="Private memory gained", x="clients, n", ticks=plan.clients)
    cost.set_ylabel("seconds")
    memory.set_ylabel("MB")
    return figure
