"""`python -m raysim.studies.scaling.worker OUT NODES`: the driver that measures all unfinished cells of one node count.

It runs on a cluster that `raysim bench scaling` brought up, and reads what to measure from OUT/plan.json.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysim.backends.base import Backend, InProcessBackend
from raysim.backends.placement import Placed
from raysim.errors import RunError
from raysim.studies.cell_store import driver_main
from raysim.studies.memory import LocalWatch, RayWatch, Watch
from raysim.studies.scaling.cell import Row, Stopwatch, measure_defense, measure_limits
from raysim.studies.scaling.plan import INPROCESS, SYNTHETIC, ParameterCount, ScalingCell, ScalingPlan
from raysim.studies.scaling.round import RoundMatrix, anchor
from raysim.studies.scaling.tables import LIMITS, PARTS
from raysim.studies.scaling.updates import Source, source_of


@dataclass(frozen=True)
class Bench:
    """What matrices are drawn and defenses measured on. cpus: of each node. anchors: see RoundMatrix."""

    backend: Backend
    drawing: Backend
    watch: Watch
    cpus: int
    anchors: tuple[Placed, ...] = ()


def measure_nodes(plan: ScalingPlan, out: Path, nodes: int) -> None:
    """Measure every cell of this node count that has no part yet, on the cluster of $RAY_ADDRESS or in process."""
    cells = [cell.name for cell in plan.every_cell()]
    progress = CellProgress(len(cells), sum(PARTS.is_finished(out, name) for name in cells))
    source = source_of(plan)
    try:
        with _bench(plan, nodes) as bench:
            for repeat in range(plan.repeats):
                for clients, size in plan.matrices(nodes, repeat):
                    every = plan.cells(nodes, repeat, clients, size)
                    todo = [cell for cell in every if not PARTS.is_finished(out, cell.name)]
                    if todo:
                        _measure_matrix(plan, out, todo, source, size, bench, progress)
                        bench.watch.settle()
    finally:
        gc.unfreeze()


@dataclass
class CellProgress:
    """Says on stderr which cell was finished, out of how many."""

    total: int
    done: int

    def tell(self, cell: ScalingCell, stages: list[Row], cell_s: float) -> None:
        """One line; `cell_s`: seconds of the cell, rounds that are not timed included."""
        self.done += 1
        took = f"{stages[-1]['wall_s']:.3f} s"
        if cell.label == LIMITS:
            took = ", ".join(f"{row['stage']} {row['wall_s']:.3f} s" for row in stages)
        print(
            f"{self.done} of {self.total}: {cell}: {took} ({cell_s:.1f} s in all)",
            file=sys.stderr,
            flush=True,
        )


def _measure_matrix(
    plan: ScalingPlan,
    out: Path,
    todo: list[ScalingCell],
    source: Source,
    size: ParameterCount,
    bench: Bench,
    progress: CellProgress,
) -> None:
    """Draw a matrix and measure these cells on it, in this order."""
    spilled = [bench.watch.spilled()]
    with Stopwatch(bench.drawing) as clock:
        drawn = source.matrix(todo[0].clients, size, bench.drawing)
    spilled.append(bench.watch.spilled())
    matrix = RoundMatrix(drawn, bench.backend, bench.anchors)
    del drawn
    gc.collect()
    gc.freeze()  # what is there by now is not looked through again before every measurement
    subjects = {subject.label: subject for subject in plan.subjects}
    for cell in todo:
        start = time.perf_counter()
        memory: list[Row] = []
        if cell.label == LIMITS:
            stages = measure_limits(matrix, clock.work)
            stages[0]["spilled_bytes"] = spilled[1] - spilled[0]
        else:
            last = cell.repeat == plan.repeats - 1
            stages, memory = measure_defense(subjects[cell.label], matrix, bench.watch, memory=last)
        spilled.append(bench.watch.spilled())
        if cell.label != LIMITS:
            stages[-1]["spilled_bytes"] = spilled[-1] - spilled[-2]
        common = _common(plan, cell, matrix, bench.cpus)
        rows = {"stages": stages, "memory": memory}
        PARTS.write(
            out, cell.name, {table: [{**common, **row} for row in found] for table, found in rows.items()}
        )
        progress.tell(cell, stages, time.perf_counter() - start)


def _common(plan: ScalingPlan, cell: ScalingCell, matrix: RoundMatrix, cpus: int) -> Row:
    """The columns that all rows of a cell have in common."""
    inside = plan.backend == INPROCESS
    return {
        "defense": cell.label,
        "clients": cell.clients,
        "malicious": int(matrix.truth.sum()),
        "model": plan.model,
        "parameters": matrix.updates.dim,
        "nodes": cell.nodes,
        "kind": INPROCESS if inside else plan.kind,
        "cpus_per_node": cpus,
        "bandwidth": plan.bandwidth or "",
        "backend": plan.backend,
        "updates": plan.updates if plan.updates == SYNTHETIC else Path(plan.updates).name,
        "seed": plan.seed,
        "repeat": cell.repeat,
    }


@contextmanager
def _bench(plan: ScalingPlan, nodes: int) -> Iterator[Bench]:
    if plan.backend == INPROCESS:
        inside = InProcessBackend()
        yield Bench(inside, inside, LocalWatch(), 1)
        return
    from raysim.backends import ray_connection as ray_cluster

    with ray_cluster.connected(os.environ["RAY_ADDRESS"]):
        from raysim.backends.capacity import ClientActors
        from raysim.backends.ray_backend import RayBackend, short_name

        capacity, found = ray_cluster.capacity(), len(ray_cluster.nodes())
        if found != nodes:
            raise RunError(f"the cluster has {found} nodes, not {nodes}")
        workers = capacity.workers(1)
        backend = RayBackend(ClientActors(0), workers=workers)
        drawing = RayBackend(ClientActors(0), workers=workers, placement="spread")
        watch = RayWatch()
        anchors = [anchor(backend, short_name(node)) for node in watch.nodes] if nodes > 1 else []
        yield Bench(backend, drawing, watch, capacity.cpus // nodes, tuple(anchors))


def _measure_planned(values: dict[str, Any], out: Path, nodes: int) -> None:
    measure_nodes(ScalingPlan.from_mapping(values), out, nodes)


if __name__ == "__main__":
    driver_main(_measure_planned)
