"""FLARE's MMD between all pairs of clients: seconds and memory against the clients n and the samples m of each."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from raysim import rng
from raysim.backends.base import ThreadLimit
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.curves import by_size, curves_of, growth
from raysim.studies.memory import MemoryWatch
from raysim.studies.options import Sizes
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns
from raysim.studies.table import Values
from raysim.studies.timing import seconds

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.backends.base import Backend
    from raysim.context import Context

LOOP_PAIRS = 100
"""How many pairs the plain loop is timed on, spread over all; its time for all pairs is scaled up from these."""


class MMDPlan(OnBackend):
    """Sizes: clients n, samples m a client, features o a sample."""

    grid: ClassVar = frozenset({"clients", "samples"})
    clients: Sizes = Field((10, 20, 50, 100, 200, 500, 1000), description="n, with commas between")
    samples: Sizes = Field((5, 10, 20, 50, 100), description="m of each client, with commas between")
    features: PositiveInt = Field(128, description="of a sample")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    seed: Count = Field(0, description="what everything is drawn from")
    backend: Literal["ray", "inprocess"] = Field("inprocess", description="inprocess: threads, not tasks")
    workers: PositiveInt = Field(1, description="Ray CPUs, or threads")


@dataclass(frozen=True)
class MMDCell(Cell):
    """n clients of m samples."""

    clients: int
    samples: int


@dataclass(frozen=True)
class Warmed:
    """Workers that have loaded what they need, and the memory that all sizes together took so far."""

    context: Context
    watch: MemoryWatch = field(default_factory=MemoryWatch)

    def all_pairs(self, sets: np.ndarray) -> None:
        """FLARE's bandwidth and all n x n values of the sets [n, m, o]."""
        from defenses.mmd import centred, median_squared_distance, pairwise_mmd

        points = centred(sets)
        squared = median_squared_distance(points.reshape(-1, points.shape[-1]))
        pairwise_mmd(points, self.context, squared_bandwidth=squared)


def samples_of(plan: MMDPlan, clients: int, samples: int) -> np.ndarray:
    """What stands for the clients' representations of m inputs: [n, m, o] float32, each client around its own mean."""
    draw = rng.generator(plan.seed, "bench", "mmd", clients, samples)
    sets = draw.standard_normal((clients, samples, plan.features), np.float32)
    sets += draw.standard_normal((clients, 1, plan.features), np.float32)
    return sets


class MMD(Study[MMDPlan, MMDCell]):
    """FLARE's MMD between all pairs of clients: seconds and memory against n and m, beside a plain loop."""

    name = "mmd"
    title = "FLARE's MMD between all pairs of clients"
    plan = MMDPlan
    tables: ClassVar = {
        "mmd": TableSchema(
            "mmd",
            columns(
                clients=("int32", "n"),
                samples=("int32", "m of each client"),
                features=("int32", "of a sample"),
                repeat=("int32", "from 0"),
                wall_s=("float64", "seconds of the bandwidth and all pairs"),
                loop_s=(
                    "float64",
                    "seconds of a plain loop over all pairs, scaled up; the same in every repeat",
                ),
                loop_pairs_timed=("int32", "pairs it was timed on"),
                private_growth_bytes=(
                    "int64",
                    "what the process that grew most has gained since before the first size measured",
                ),
            ),
        )
    }

    def cells(self, plan: MMDPlan) -> list[MMDCell]:
        """Fewest samples in all first: processes may keep the memory they freed."""
        every = [MMDCell(n, m) for n in plan.clients for m in plan.samples]
        return sorted(every, key=lambda cell: (cell.clients * cell.samples, cell.clients))

    @contextlib.contextmanager
    def opened(self, plan: MMDPlan, bench: Bench) -> Iterator[Warmed]:
        """See Study."""
        warm = Warmed(kernel_context(bench.backend, plan.seed))
        warm.context.map("warm up", _begin, [0.2] * bench.workers)
        sets = samples_of(plan, 2, 2)
        warm.all_pairs(sets)
        plain_loop_s(sets, 1.0)
        yield warm

    def measure(self, plan: MMDPlan, cell: MMDCell, bench: Warmed) -> Mapping[str, Rows]:
        """Memory in a pass of its own that also warms up, then the times, then the plain loop."""
        from defenses.mmd import median_squared_distance

        sets = samples_of(plan, cell.clients, cell.samples)
        with bench.watch:
            bench.all_pairs(sets)
        gc.collect()
        spent = [seconds(bench.all_pairs, sets) for _ in range(plan.repeats)]
        loop_s, timed = plain_loop_s(sets, median_squared_distance(sets.reshape(-1, plan.features)))
        bench.context.backend.telemetry.drain()
        common = {"features": plan.features, "loop_s": loop_s, "loop_pairs_timed": timed}
        common["private_growth_bytes"] = bench.watch.growth
        return {"mmd": [{"repeat": repeat, "wall_s": s, **common} for repeat, s in enumerate(spent)]}

    def page(self, plan: MMDPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See Study."""
        from raysim.studies.figure import labelled_curves

        table = tables["mmd"]

        def curves(column: str, label: str) -> dict[str, dict[int, Values]]:
            return curves_of(table, column, "clients", "samples", lambda samples: f"{label}m = {samples}")

        tiled, loop = curves("wall_s", ""), curves("loop_s", "plain loop, ")
        memory = {
            name: {n: Values(grown.all / 1e6) for n, grown in points.items()}
            for name, points in curves("private_growth_bytes", "").items()
        }
        ends = {name: loop[name] for name in dict.fromkeys((next(iter(loop)), list(loop)[-1]))}
        along_samples = curves_of(table, "wall_s", "samples", "clients", lambda clients: f"n = {clients}")
        panels = {"Seconds, all pairs": {**tiled, **ends}, "Private memory gained, MB": memory}
        sections = [
            by_size("n; seconds in tiles", tiled, loop),
            by_size("n; private memory (MB)", memory),
            growth("seconds", "n", tiled),
            growth("seconds", "m", along_samples),
            _notes(plan),
        ]
        figure = labelled_curves(panels, x="clients, n", y="", quiet=list(ends))
        return Page(sections, {"cost": (self.title, figure)})


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


def plain_mmd(left: np.ndarray, right: np.ndarray, squared_bandwidth: float) -> float:
    """MMD^2 of two sample sets [m, o], pair by pair as one would write it."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a[:, None] - b) ** 2).sum(axis=2) / (2 * squared_bandwidth)).mean())

    return kernel(left, left) + kernel(right, right) - 2 * kernel(left, right)


def kernel_context(backend: Backend, seed: int) -> Context:
    """A context for work that needs tasks and nothing of a round."""
    from raysim.context import Context
    from raysim.matrix.layout import Layout

    vector = np.zeros(1, np.float32)
    return Context(backend, seed, "defense", 0, 1, Layout.flat(1), backend.put(vector), vector)


def _notes(plan: MMDPlan) -> str:
    return (
        f"Seconds: median of {plan.repeats} (first to third quartile) for the bandwidth and all n x n values from one"
        " kernel matrix in tiles; plain loop: one in this process, one thread, over pairs i < j, three kernel"
        f" blocks a pair, timed on at most {LOOP_PAIRS} pairs and scaled up. Private memory: what the process that"
        " grew most has gained since before the first size, samples included, in a pass of its own. Sizes run from"
        " the fewest n m to the most, and the largest so far counts, because processes may keep memory they freed."
    )
