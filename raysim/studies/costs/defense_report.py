"""Print what defenses cost: stages, ratios to the limits, peers and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from raysim.composition.registry import defense_title
from raysim.studies.costs.defense_cost import DefenseCost, StageCost
from raysim.studies.costs.kernels import KernelTimes
from raysim.studies.costs.peers import PeerTime
from raysim.studies.costs.targets import Judged, ratio
from raysim.studies.matrix import Matrix
from raysim.studies.report import print_machine, spread

MIB = 2**20


def print_matrix(matrix: Matrix, backend: str, workers: int, repeats: int) -> None:
    """What was measured, where, and how."""
    console, spec, updates = _console(), matrix.spec, matrix.updates
    shards, blocks = len(updates.bounds) - 1, len(updates.blocks)
    console.print(
        f"{spec.model}: K = {spec.clients} clients, d = {updates.dim:,} parameters,"
        f" {4 * spec.clients * updates.dim / 1e9:.2f} GB in {blocks} row blocks x {shards} column shards,"
        f" backend {backend}",
        style="bold",
    )
    threads = 1 if backend == "ray" else workers
    print_machine(console, seed=spec.seed, repeats=repeats, workers=workers, threads=threads)


def print_limits(costs: Sequence[DefenseCost], gram32_s: np.ndarray) -> None:
    """The limits over all repeats, each taken directly before a defense."""
    table = _table("limits (s)", "min", "median", "max")
    for name, values in (
        ("one copy of the matrix", np.concatenate([cost.copy_s for cost in costs])),
        ("one Gram product, float64", np.concatenate([cost.gram_s for cost in costs])),
        ("one Gram product, float32 (for information)", gram32_s),
    ):
        table.add_row(name, *spread(values))
    _console().print(table)


def print_costs(costs: Sequence[DefenseCost]) -> None:
    """Each defense and its stages: median seconds, ratios to the limits, bytes, tasks, nodes, memory."""
    table = _table("defense, stage", "s", "x copy", "x Gram", "MB in", "MB out", "tasks", "nodes", "peak MiB")
    for cost in costs:
        table.add_row(
            defense_title(cost.label),
            f"{np.median(cost.apply_s):.3f}",
            f"{ratio(cost.apply_s, cost.copy_s):.2f}",
            f"{ratio(cost.apply_s, cost.gram_s):.2f}",
            *([""] * 4),
            f"{cost.resident_peak / MIB:.0f}",
            style="bold",
        )
        for name, stage in cost.stages.items():
            table.add_row(*_stage_row(name, stage, cost))
    _console().print(table)


def print_peers(peers: Mapping[str, PeerTime]) -> None:
    """ByzFL's rules on the same matrix in one process."""
    table = _table("ByzFL, one process (median s)", "numpy", "torch")
    for peer in peers.values():
        table.add_row(peer.rule, f"{np.median(peer.numpy_s):.3f}", f"{np.median(peer.torch_s):.3f}")
    _console().print(table)


def print_kernel(times: KernelTimes, backend: str, workers: int, repeats: int, seed: int) -> None:
    """One kernel's times and targets."""
    console = _console()
    console.print(f"{times.title}, backend {backend}", style="bold")
    threads = 1 if backend == "ray" else workers
    print_machine(console, seed=seed, repeats=repeats, workers=workers, threads=threads)
    table = _table("seconds", "min", "median", "max")
    for name, values in times.times_s.items():
        table.add_row(name, *spread(values))
    console.print(table)
    if times.cost is not None:
        print_costs([times.cost])
    print_targets(times.targets)


def print_targets(rows: Sequence[Judged]) -> None:
    """Measured beside the target, and whether it is met."""
    if not rows:
        return
    table = _table("target", "measured", "wanted", "")
    for row in rows:
        bound = ">=" if row.at_least else "<="
        table.add_row(
            row.what,
            f"{row.measured:.2f} {row.unit}",
            f"{bound} {row.target:g} {row.unit}",
            "met" if row.met else "MISSED",
            style="" if row.met else "bold",
        )
    console = _console()
    console.print(table)
    console.print(f"{sum(row.met for row in rows)} of {len(rows)} targets met\n")


def _stage_row(name: str, stage: StageCost, cost: DefenseCost) -> list[str]:
    return [
        f"  {name}",
        f"{np.median(stage.wall_s):.3f}",
        f"{ratio(stage.wall_s, cost.copy_s):.2f}",
        f"{ratio(stage.wall_s, cost.gram_s):.2f}",
        f"{stage.bytes_in / 1e6:.1f}",
        f"{stage.bytes_out / 1e6:.1f}",
        str(stage.tasks),
        str(stage.nodes),
        f"{stage.peak_bytes / MIB:.0f}",
    ]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _console() -> Console:
    return Console(width=130, markup=False, emoji=False, highlight=False)
