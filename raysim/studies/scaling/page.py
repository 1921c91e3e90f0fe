"""The page of a scaling measurement: its sections, figures, and the fitted exponents as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from raysim.composition.registry import defense_title
from raysim.report.tables import ids
from raysim.runs.table_schema import TableSchema
from raysim.studies.scaling import sections
from raysim.studies.scaling.figures import draw
from raysim.studies.scaling.fit import DigestMismatch, Growth, digest_mismatches, growth
from raysim.studies.scaling.read import Measured, read_memory, read_stages
from raysim.studies.scaling.view import ScalingView, views
from raysim.studies.study import Page

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

NOTES = """\
Seconds are wall-clock seconds of the defense's own work in one round, `apply`: median [first quartile, third
quartile] over the repeats. **Growth** is the exponent p of seconds ~ K^p, a least-squares line through the medians in
log-log, one point for each K, with its 95 % confidence interval (Student's t, number of K - 2 degrees of freedom;
three K make it wide). *Last step* is the exponent between the two largest K alone, and *off* the farthest that a
median lies from the line; † marks more than 20 %: no single power law describes these K, often because a constant
overhead hides the growth at small K, and the last step says more. Exponents of stages of a few milliseconds speak of
scheduling, not of work. A *limit* is one copy of the matrix, or one product U Uᵀ in float64 (Gram), with the same
workers on the same matrix in the same repeat."""


def page_of(tables: Mapping[str, pa.Table], planned: Sequence[str]) -> Page:
    """The page, its figures, and the fitted exponents as the table `growth`. planned: defenses in their order."""
    measured = read_stages(tables["stages"].to_pylist(), planned)
    laws = [*growth(measured, "clients"), *growth(measured, "parameters")]
    memory, seen = read_memory(tables["memory"].to_pylist()), views(measured)
    figures: dict[str, tuple[str, Figure]] = {}
    lines = [_dates(measured), "", *_digests(measured), "", NOTES, ""]
    for setup in dict.fromkeys(view.setup for view in seen):
        lines += [f"## {setup.title}", ""]
        for view in seen:
            if view.setup == setup:
                lines += _of_view(view, laws, figures)
                lines += sections.memory(view, memory)
        lines += sections.growth_in_parameters(setup, laws)
    return Page(["\n".join(lines)], figures, {"growth": growth_table(laws)})


def growth_table(laws: Sequence[Growth]) -> pa.Table:
    """One row a fit. Column -> meaning: see Setup, Growth and PowerLaw."""
    texts = ("kind", "bandwidth", "backend", "updates", "defense", "stage", "along")
    counts = ("cpus_per_node", "order", "clients", "parameters", "nodes", "points", "smallest", "largest")
    numbers = ("exponent", "low", "high", "coefficient", "largest_deviation", "last_exponent")
    kinds = {
        **dict.fromkeys(texts, "string"),
        **dict.fromkeys(counts, "int64"),
        **dict.fromkeys(numbers, "float64"),
    }
    schema = TableSchema("growth", {name: (kind, "see Growth and PowerLaw") for name, kind in kinds.items()})
    return schema.table([law.row() for law in laws])


def _dates(measured: Sequence[Measured]) -> str:
    first, last = (
        datetime.fromtimestamp(pick(pick(entry.started_s) for entry in measured), UTC) for pick in (min, max)
    )
    return f"Measured from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC."


def _of_view(view: ScalingView, laws: Sequence[Growth], figures: dict[str, tuple[str, Figure]]) -> list[str]:
    drawn = draw(view, figures)
    model = f"{view.model}, " if view.model else ""
    nodes = f"{', '.join(map(str, view.nodes))} node{'s' * (view.nodes != [1])}"
    grid = f"K = {', '.join(map(str, view.clients))} clients, on {nodes}."
    title = f"### {model}d = {view.parameters:,} parameters"
    fits = sections.Fits(laws)
    return [
        title,
        "",
        grid,
        "",
        *sections.seconds(view, fits, drawn),
        *sections.limits(view),
        *sections.stages(view, fits, drawn),
        *sections.maps(view, drawn),
        *sections.nodes(view, drawn),
        *sections.moved(view, drawn),
        *sections.spilled(view),
    ]


def _digests(measured: Sequence[Measured]) -> list[str]:
    different, compared = digest_mismatches(measured)
    if not compared:
        return ["No result was computed twice, so nothing is said of equal bytes."]
    if not different:
        return [
            f"Equal bytes on every number of nodes and in every repeat, for all {compared} results compared."
        ]
    lines = [
        f"**RESULTS DIFFER: {len(different)} of {compared} results did not always end in the same bytes.**",
        "",
    ]
    return lines + [_mismatch(found) for found in different]


def _mismatch(found: DigestMismatch) -> str:
    variants = "; ".join(
        f"{digest[:12]}: " + ", ".join(_runs(nodes, runs) for nodes in sorted({nodes for nodes, _ in runs}))
        for digest, runs in found.found.items()
    )
    what = f"{defense_title(found.defense)}, K = {found.clients}, d = {found.parameters:,}, seed {found.seed}"
    return f"- {what} ({found.setup.title}): {variants}"


def _runs(nodes: int, runs: Sequence[tuple[int, int]]) -> str:
    repeats = ids(repeat for at, repeat in runs if at == nodes)
    return f"{nodes} node{'s' * (nodes > 1)} (repeat {repeats})"
