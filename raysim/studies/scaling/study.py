"""`raysim bench scaling`: what defenses cost, stage by stage, as clients, parameters and nodes grow."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from raysim.errors import ConfigError
from raysim.formats import size as size_text
from raysim.runs.table_schema import Rows
from raysim.studies.scaling.plan import (
    INPROCESS,
    SYNTHETIC,
    ParameterCount,
    ScalingCell,
    ScalingPlan,
    cells_of,
)
from raysim.studies.scaling.tables import LIMITS, TABLES
from raysim.studies.store import span_rows
from raysim.studies.study import Bench, Page, Study
from raysim.studies.table import Row

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.backends.base import Backend
    from raysim.backends.placement import Placed
    from raysim.studies.memory import Watch
    from raysim.studies.scaling.cell import Work
    from raysim.studies.scaling.round import RoundMatrix

SPARE = 0.9
"""Share of the free disk or memory that matrices may take."""


class Scaling(Study[ScalingPlan, ScalingCell]):
    """Measure what defenses cost, stage by stage, as clients, parameters and nodes grow.

    \b
    raysim bench scaling --defense krum,pdrr,rule=median,layercam_ae --clients 24,48,72,100
    raysim bench scaling --defense krum,median --clients 100 --parameters 100000,1000000,6603710
    raysim bench scaling --defense krum --clients 48,96 --nodes 1,2 --kind namespaces --bandwidth 1gbit

    In every repeat the matrices, and the defenses on each, come in a new order. Every number of nodes gets a cluster of its
    own. A finished measurement can be extended: more clients, defenses, nodes or repeats, with --resume.
    """

    name = "scaling"
    title = "How the defenses scale"
    plan = ScalingPlan
    tables = TABLES

    def cells(self, plan: ScalingPlan) -> list[ScalingCell]:
        """See cells_of."""
        from raysim.studies.scaling.updates import source_of

        return cells_of(plan, source_of(plan).sizes)

    def check(self, plan: ScalingPlan) -> Iterable[str]:
        """Defenses that cannot work, matrices that do not exist or fit; what there will be to hold them."""
        from raysim.studies.scaling.updates import source_of

        source = source_of(plan)
        source.check()
        return [*estimates(plan, source.sizes), *shared_cpus(plan)]

    @contextlib.contextmanager
    def opened(self, plan: ScalingPlan, bench: Bench) -> Iterator[Session]:
        """Watches on every node; a backend that spreads what it draws; on several nodes, anchors."""
        from raysim.studies.memory import LocalWatch, RayWatch

        if plan.backend == INPROCESS:
            session = Session(plan, bench.backend, bench.backend, LocalWatch(), bench.cpus)
        else:
            from raysim.backends.capacity import ClientActors
            from raysim.backends.ray_backend import RayBackend
            from raysim.backends.ray_worker import short_name
            from raysim.studies.scaling.round import anchor

            drawing = RayBackend(ClientActors(0), workers=bench.workers, placement="spread")
            watch = RayWatch()
            nodes = watch.nodes if len(watch.nodes) > 1 else []
            anchors = tuple(anchor(bench.backend, short_name(node)) for node in nodes)
            session = Session(plan, bench.backend, drawing, watch, bench.cpus, anchors)
        try:
            yield session
        finally:
            gc.unfreeze()

    def measure(self, plan: ScalingPlan, cell: ScalingCell, bench: Session) -> Mapping[str, Rows]:
        """A defense, or the limits, on the cell's matrix; memory in the last repeat."""
        from raysim.studies.scaling.cell import measure_limits, measure_subject

        matrix, drawn = bench.matrix(cell)
        memory: list[Row] = []
        before = bench.watch.spilled()
        if cell.defense == LIMITS:
            stages, spans = measure_limits(matrix, drawn), drawn.spans
            stages[0]["spilled_bytes"] = bench.spilled_by_drawing
        else:
            (subject,) = [subject for subject in plan.subjects if subject.label == cell.defense]
            last = cell.repeat == plan.repeats - 1
            stages, memory, spans = measure_subject(subject, matrix, bench.watch, memory=last)
            stages[0]["spilled_bytes"] = bench.watch.spilled() - before
        common = bench.common(matrix)
        rows = {"stages": stages, "memory": memory}
        kept: dict[str, Rows] = {name: [{**common, **row} for row in found] for name, found in rows.items()}
        return {**kept, "spans": span_rows(cell, spans, round=cell.repeat)}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Seconds of the whole, or of the limits."""
        stages = rows["stages"]
        if any(row["digest"] for row in stages):
            return f"{stages[0]['wall_s']:.3f} s"
        return ", ".join(f"{row['stage']} {row['wall_s']:.3f} s" for row in stages)

    def page(self, plan: ScalingPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See page.py."""
        from raysim.studies.scaling.page import page_of

        return page_of(tables, [*plan.defense, *plan.attack])


@dataclass
class Session:
    """One cluster, and the matrix that is there. cpus: of each node. anchors: see RoundMatrix."""

    plan: ScalingPlan
    backend: Backend
    drawing: Backend
    watch: Watch
    cpus: int
    anchors: tuple[Placed, ...] = ()
    spilled_by_drawing: int = 0
    _held: dict[tuple[int, int, int], tuple[RoundMatrix, Work]] = field(default_factory=dict)

    def matrix(self, cell: ScalingCell) -> tuple[RoundMatrix, Work]:
        """The cell's matrix and what drawing it took; drawn once for all cells that follow each other on it."""
        key = (cell.repeat, cell.clients, cell.parameters)
        if key not in self._held:
            from raysim.studies.scaling.cell import Stopwatch
            from raysim.studies.scaling.round import RoundMatrix
            from raysim.studies.scaling.updates import source_of

            self._held.clear()
            self.watch.settle()
            source, before = source_of(self.plan), self.watch.spilled()
            (size,) = [size for size in source.sizes if size.parameters == cell.parameters]
            with Stopwatch(self.drawing) as clock:
                drawn = source.matrix(cell.clients, size, self.drawing)
            self.spilled_by_drawing = self.watch.spilled() - before
            self._held[key] = RoundMatrix(drawn, self.backend, self.anchors), clock.work
            del drawn
            gc.collect()
            gc.freeze()  # what is there by now is not looked through again before every measurement
        return self._held[key]

    def common(self, matrix: RoundMatrix) -> Row:
        """The columns that all rows of a cell have in common, beside those of the cell."""
        from raysim.studies.scaling.updates import source_of

        plan = self.plan
        return {
            "malicious": int(matrix.truth.sum()),
            "model": source_of(plan).model,
            "kind": INPROCESS if plan.backend == INPROCESS else plan.kind,
            "cpus_per_node": self.cpus,
            "machine_cpus": 0 if plan.kind == "address" else len(os.sched_getaffinity(0)),
            "bandwidth": plan.bandwidth or "",
            "backend": plan.backend,
            "updates": plan.updates if plan.updates == SYNTHETIC else Path(plan.updates).name,
            "seed": plan.seed,
        }


def estimates(plan: ScalingPlan, sizes: Sequence[ParameterCount]) -> list[str]:
    """A line for every matrix: its size beside what there is to hold it.

    Raises ConfigError for one that neither fits the memory nor, on Ray, can be spilled to disk.
    """
    import psutil

    from cluster.plan import make_plan

    free = psutil.virtual_memory().available
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    store = None
    if plan.backend != INPROCESS and plan.kind != "address":
        store = min(nodes * make_plan(nodes=nodes, **plan.cluster).object_store_bytes for nodes in plan.nodes)
    lines = []
    for clients in plan.clients:
        for size in sizes:
            whole = 4 * clients * size.parameters
            line = f"K = {clients:,}, d = {size.parameters:,}: {size_text(whole)} a matrix"
            if plan.backend == INPROCESS:
                lines.append(f"{line}, {size_text(free)} memory free")
                room = SPARE * free
            elif store is None:
                lines.append(f"{line}; what a store does not hold, Ray spills to disk")
                continue
            else:
                spilled = max(0, whole - store)
                lines.append(
                    f"{line}, {size_text(store)} object stores: at least {size_text(spilled)} spilled, {size_text(disk)} disk free"
                )
                room = store + SPARE * disk
            if whole > room:
                most = int(room // (4 * size.parameters))
                raise ConfigError(
                    "clients", f"must leave room: a matrix takes {size_text(whole)}", clients, most
                )
    return lines


def shared_cpus(plan: ScalingPlan) -> list[str]:
    """A warning where nodes on this machine have more CPUs than it has."""
    cpus, most = len(os.sched_getaffinity(0)), max(plan.nodes) * (plan.cpus_per_node or 1)
    if plan.backend == INPROCESS or plan.kind == "address" or most <= cpus:
        return []
    return [
        f"{max(plan.nodes)} nodes of {plan.cpus_per_node} CPUs share this machine's {cpus}: no true speed-up"
    ]
