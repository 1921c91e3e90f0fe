"""The page of methods on one matrix: limits, methods with their stages, peers, and the figure of stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysim.backends.telemetry import WHOLE_STAGE
from raysim.composition.registry import defense_title
from raysim.studies import markdown
from raysim.studies.costs.study import OWN, PEER, CostCell, MatrixPlan
from raysim.studies.stages import BETWEEN, WHOLE, summary
from raysim.studies.store import span_of
from raysim.studies.study import Page
from raysim.studies.table import Row, Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa

MIB = 2**20

LIMITS = {
    "copy_s": "one copy of the matrix",
    "gram_s": "one Gram product, float64",
    "gram32_s": "one Gram product, float32 (for information)",
}

OF_PEERS = (
    *((name, WHOLE, "krum") for name in ("krum", "multi_krum")),
    *(
        (name, "gram", "krum")
        for name in ("krum", "multi_krum", "flame", "foolsgold", "foolsgold,features=all")
    ),
    *((name, WHOLE, name) for name in ("trimmed_mean", "median")),
    *((f"pdrr,rule={name}", "counts", name) for name in ("trimmed_mean", "median")),
    ("rfa,max_iterations=4,tolerance=0", WHOLE, "rfa"),
)
"""(Defense, its stage, the peer's rule that does the same work)."""


Stage = tuple[Values, Row]
"""Seconds by repeat [R]; the columns of `stages.summary` in the last one."""


def page_of(plan: MatrixPlan, table: pa.Table, spans: pa.Table, beside: str) -> Page:
    """See Study. beside: the defense whose pass was taken before each; "" for none."""
    from raysim.studies.figure import stacked

    found = {
        name: gathered(table, name, "method", "package")
        for name in ("wall_s", *LIMITS, "pass_s", "resident_bytes", "task_memory_bytes")
    }
    labels = [method for method, package in found["wall_s"] if package == OWN]
    stages = {label: dict(_stages(spans, label, found["wall_s"][label, OWN])) for label in labels}
    limits = {**LIMITS, **({"pass_s": f"{beside}'s pass"} if beside else {})}
    said = dict(zip(table["method"].to_pylist(), table["said"].to_pylist(), strict=True))
    under = {"x copy": "copy_s", "x Gram": "gram_s", **({f"x {beside}": "pass_s"} if beside else {})}
    rows = []
    for label in labels:
        wall, *below = (found[name][label, OWN] for name in ("wall_s", *under.values()))
        memory = [f"{found[n][label, OWN].median / MIB:.0f}" for n in ("resident_bytes", "task_memory_bytes")]
        says = [said[label]] if beside else []
        rows.append([f"**{defense_title(label)}**", *_times(wall, below), *[""] * 4, *memory, *says])
        for name, (wall, last) in stages[label].items():
            peak = f"{last['peak_memory_bytes'] / MIB:.0f}" if last["peak_memory_bytes"] else ""
            moved = [f"{last[way] / 1e6:.1f}" for way in ("bytes_in", "bytes_out")]
            counts = [str(last["tasks"]), str(last["nodes_used"])]
            rows.append([name, *_times(wall, below), *moved, *counts, peak, "", *([""] if beside else [])])
    head = ["attack, stage" if beside else "defense, stage", "s", *under]
    head += ["MB in", "MB out", "tasks", "nodes", "peak MiB", "task MiB", *(["says"] if beside else [])]
    bars = {
        defense_title(label): {name: wall.median for name, (wall, _) in parts.items()}
        for label, parts in stages.items()
    }
    caption = f"Seconds of one round's {'crafting' if beside else 'verdict'} by stage"
    extents = [[what, *markdown.extent(table[name].to_pylist())] for name, what in limits.items()]
    sections = [
        _matrix(plan, table),
        markdown.table(["limits (s)", "min", "median", "max"], extents),
        markdown.table(head, rows),
        NOTES,
        *_peers(table, labels, stages, found["wall_s"]),
    ]
    return Page(sections, {"stages": (caption, stacked({"": bars}, x=f"{caption}, medians"))} if bars else {})


NOTES = """\
Seconds and ratios are medians; a ratio is taken in one repeat. Peak MiB: resident memory of the largest process, libraries
and every tile that it ever mapped included. Task MiB: the most private memory that one process took, and the tiles of its
largest task."""


def _matrix(plan: MatrixPlan, table: pa.Table) -> str:
    dim, blocks, shards = (table[name][0].as_py() for name in ("dim", "row_blocks", "column_shards"))
    return (
        f"{plan.model}: K = {plan.clients} clients, d = {dim:,} parameters, {4 * plan.clients * dim / 1e9:.2f} GB in"
        f" {blocks} row blocks x {shards} column shards."
    )


def _stages(spans: pa.Table, label: str, whole: Values) -> Iterator[tuple[str, Stage]]:
    """The stages of a method in the order they ran, and what lies between them last."""
    cell, repeats = CostCell(label).name, range(whole.all.size)
    own = [(row["round"], span_of(row)) for row in spans.to_pylist() if row["cell"] == cell]
    rest = whole.all.copy()
    for name in dict.fromkeys(span.stage for _, span in own if span.task == WHOLE_STAGE):
        found = [summary([s for at, s in own if (at, s.stage) == (repeat, name)]) for repeat in repeats]
        wall = Values.of(row["wall_s"] for row in found)
        rest -= wall.all
        yield name, (wall, found[-1])
    yield BETWEEN, (Values(np.maximum(rest, 0.0)), summary([]))


def _times(wall: Values, limits: Sequence[Values]) -> list[str]:
    """Median seconds and the ratios to the limits."""
    return [f"{wall.median:.3f}", *(f"{Values(wall.all / limit.all).median:.2f}" for limit in limits)]


def _peers(
    table: pa.Table,
    labels: list[str],
    stages: Mapping[str, Mapping[str, Stage]],
    whole: Mapping[tuple[str, str], Values],
) -> list[str]:
    """ByzFL's seconds, and how many times as long as ours; nothing if it was not measured."""
    theirs = {
        (rule, arrays): values
        for (rule, package, arrays), values in gathered(
            table, "wall_s", "method", "package", "arrays"
        ).items()
        if package == PEER
    }
    if not theirs:
        return []
    rows = []
    for label, stage, rule in OF_PEERS:
        if label not in labels or (stage != WHOLE and stage not in stages[label]):
            continue
        own = (whole[label, OWN] if stage == WHOLE else stages[label][stage][0]).median
        peer = [theirs[rule, arrays].median for arrays in ("torch", "numpy")]
        what = label if stage == WHOLE else f"{label}: {stage}"
        rows.append(
            [what, f"{own:.3f}", rule, *(f"{s:.3f}" for s in peer), *(f"{s / own:.2f}" for s in peer)]
        )
    if not rows:  # nothing of ours is the like
        rules = dict.fromkeys(rule for rule, _ in theirs)
        rows = [
            ["", "", rule, *(f"{theirs[rule, arrays].median:.3f}" for arrays in ("torch", "numpy")), "", ""]
            for rule in rules
        ]
    head = ["", "s", "ByzFL's rule", "on torch (s)", "on numpy (s)", "torch / ours", "numpy / ours"]
    note = "ByzFL works in one process, with as many threads as there are workers here; medians."
    return [markdown.table(head, rows), note]
