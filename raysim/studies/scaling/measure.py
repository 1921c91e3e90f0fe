"""`raysim bench scaling`: what defenses cost, stage by stage, as clients, parameters and nodes grow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from cluster.clusters import bring_up
from cluster.plan import make_plan
from raysim.errors import ConfigError
from raysim.formats import size as size_text
from raysim.studies.cell_store import run_driver, write_json
from raysim.studies.scaling.plan import INPROCESS, SYNTHETIC, ScalingPlan, check_grid
from raysim.studies.scaling.tables import PARTS
from raysim.studies.scaling.updates import Recorded, source_of
from raysim.studies.scaling.worker import measure_nodes

SPARE = 0.9
"""Share of the free disk or memory that matrices may take."""


def measure(
    plan: ScalingPlan, out: Path, *, resume: bool = False, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Measure the plan's cells that `out` lacks, and write the tables there (see tables.py).

    Every number of nodes gets a cluster of its own, and a driver process on it. Raises ConfigError for a plan
    that cannot be carried out, before anything starts; RecordError for an `out` that holds other measurements, or any
    without `resume`; RunError where a driver fails: the cells it finished stay.
    """
    check_grid(plan)
    source_of(plan).check()
    for line in (*estimates(plan), *shared_cpus(plan)):
        tell(line)
    machine = PARTS.claim(out, plan.method(), _method_of, resume=resume)
    about = {"environment": machine, "plan": plan.to_mapping()}
    write_json(out / "plan.json", about)
    cells = plan.every_cell()
    if done := sum(PARTS.is_finished(out, cell.name) for cell in cells):
        tell(f"{done} of {len(cells)} cells are finished already")
    for nodes in plan.nodes:
        if all(PARTS.is_finished(out, cell.name) for cell in cells if cell.nodes == nodes):
            continue
        if plan.backend == INPROCESS:
            measure_nodes(plan, out, nodes)
            continue
        with bring_up(
            plan.kind,
            nodes=nodes,
            cpus_per_node=plan.cpus_per_node,
            object_store_bytes=plan.object_store_bytes,
            bandwidth=plan.bandwidth,
            address=plan.address,
        ) as cluster:
            run_driver(cluster, "raysim.studies.scaling.worker", out, nodes)
    PARTS.merge(out, about)


def of_run(plan: ScalingPlan) -> ScalingPlan:
    """The plan with the model of the run it takes updates from; as it is where they are synthetic."""
    return plan if plan.updates == SYNTHETIC else replace(plan, **Recorded.of(plan).model_of_run())


def estimates(plan: ScalingPlan) -> list[str]:
    """A line for every matrix: its size beside what there is to hold it.

    Raises ConfigError for one that neither fits the memory nor, on Ray, can be spilled to disk.
    """
    free = psutil.virtual_memory().available
    disk = shutil.disk_usage(tempfile.gettempdir()).free
    store = None
    if plan.backend != INPROCESS and plan.kind != "address":
        each = [
            (
                nodes,
                make_plan(plan.kind, nodes, plan.cpus_per_node, 0, plan.object_store_bytes, plan.bandwidth),
            )
            for nodes in plan.nodes
        ]
        store = min(nodes * found.object_store_bytes for nodes, found in each)
    lines = []
    for clients in plan.clients:
        for size in plan.sizes:
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
    cpus, most = len(os.sched_getaffinity(0)), max(plan.nodes) * plan.cpus_per_node
    if plan.backend == INPROCESS or plan.kind == "address" or most <= cpus:
        return []
    return [
        f"{max(plan.nodes)} nodes of {plan.cpus_per_node} CPUs share this machine's {cpus}: no true speed-up"
    ]


def _method_of(values: dict[str, Any]) -> dict[str, Any]:
    return ScalingPlan.from_mapping(values).method()
