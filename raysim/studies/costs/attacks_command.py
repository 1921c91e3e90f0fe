"""`raysim bench attacks`: from its options to measurements and their print-out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from raysim.studies.costs.attack_cost import CraftCost, bench_attacks
from raysim.studies.costs.defense_report import print_matrix, print_targets
from raysim.studies.costs.defenses_command import BackendName
from raysim.studies.costs.targets import ratio
from raysim.studies.matrix import MatrixSpec, bench_backend, build_matrix

MIB = 2**20


def bench_crafting(
    words: Sequence[str],
    defense: str,
    spec: MatrixSpec,
    backend_name: BackendName,
    workers: int,
    repeats: int,
) -> None:
    """Measure attacks on one matrix beside a defense's pass over it; print everything."""
    with bench_backend(backend_name, workers) as backend:
        matrix = build_matrix(spec, backend)
        print_matrix(matrix, backend_name, workers, repeats)
        costs, targets = bench_attacks(words, defense, matrix, repeats)
    print_crafting(costs, defense)
    print_targets(targets)


def print_crafting(costs: Sequence[CraftCost], defense: str) -> None:
    """Each attack: median seconds, ratios to the defense's pass and to the Gram product, memory, what it says."""
    table = Table(box=None, pad_edge=False)
    for heading in ("attack", "craft s", f"x {defense}", "x Gram", "process MiB", "says"):
        left = heading in ("attack", "says")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "says")
    for cost in costs:
        table.add_row(
            cost.label,
            f"{np.median(cost.craft_s):.3f}",
            f"{ratio(cost.craft_s, cost.defense_s):.2f}",
            f"{ratio(cost.craft_s, cost.gram_s):.2f}",
            f"{cost.task_memory / MIB:.0f}",
            ", ".join(f"{key} {_short(value)}" for key, value in cost.said.items() if key != "bases"),
        )
    passes, grams = (
        np.concatenate([getattr(cost, name) for cost in costs]) for name in ("defense_s", "gram_s")
    )
    console = Console(width=130, markup=False, emoji=False, highlight=False)
    console.print(table)
    console.print(
        f"{defense}'s pass {np.median(passes):.3f} s, Gram product {np.median(grams):.3f} s (medians)\n"
    )


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
