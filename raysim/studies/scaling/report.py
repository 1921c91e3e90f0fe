"""The report of a scaling measurement: a Markdown page, its figures, and the fitted exponents as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysim.composition.registry import defense_title
from raysim.errors import RecordError
from raysim.report.tables import flatten, ids
from raysim.runs.directory import write_atomically
from raysim.runs.table_schema import TableSchema, write_parquet
from raysim.studies.scaling import sections
from raysim.studies.scaling.figures import draw
from raysim.studies.scaling.fit import DigestMismatch, Growth, digest_mismatches, growth
from raysim.studies.scaling.read import Measured, read_about, read_memory, read_stages
from raysim.studies.scaling.view import ScalingView, views

NOTES = """\
Seconds are wall-clock seconds of the defense's own work in one round, `apply`: median [first quartile, third
quartile] over the repeats. **Growth** is the exponent p of seconds ~ K^p, a least-squares line through the medians in
log-log, one point for each K, with its 95 % confidence interval (Student's t, number of K - 2 degrees of freedom;
three K make it wide). *Last step* is the exponent between the two largest K alone, and *off* the farthest that a
median lies from the line; † marks more than 20 %: no single power law describes these K, often because a constant
overhead hides the growth at small K, and the last step says more. Exponents of stages of a few milliseconds speak of
scheduling, not of work. A *limit* is one copy of the matrix, or one product U Uᵀ in float64 (Gram), with the same
workers on the same matrix in the same repeat."""


def write_report(out: Path) -> str:
    """Turn out/stages.parquet and out/memory.parquet into scaling.md, figures (PNG and SVG) and growth.parquet.

    Returns the Markdown. Raises RecordError when a table is missing, damaged or empty.
    """
    path = out / "stages.parquet"
    measured = read_stages(path)
    seen = views(measured)
    if not seen:
        raise RecordError(f"{path}: holds no measurement of a defense")
    laws = [*growth(measured, "clients"), *growth(measured, "parameters")]
    write_growth(out / "growth.parquet", laws)
    head = [*about_lines(read_about(path)), _dates(measured)]
    lines = ["# How the defenses scale", "", *(f"    {line}" for line in head), ""]
    lines += [*_digests(measured), "", NOTES, ""]
    memory = read_memory(out / "memory.parquet")
    for setup in dict.fromkeys(view.setup for view in seen):
        lines += [f"## {setup.title}", ""]
        for view in seen:
            if view.setup == setup:
                lines += _of_view(view, laws, out)
                lines += sections.memory(view, memory)
        lines += sections.growth_in_parameters(setup, laws)
    markdown = "\n".join(lines).rstrip() + "\n"
    write_atomically(out / "scaling.md", markdown.encode())
    return markdown


def write_growth(path: Path, laws: Sequence[Growth]) -> None:
    """One row a fit. Column -> meaning: see Setup, Growth and PowerLaw."""
    texts = ("kind", "bandwidth", "backend", "updates", "defense", "stage", "along")
    counts = ("cpus_per_node", "order", "clients", "parameters", "nodes", "points", "smallest", "largest")
    numbers = ("exponent", "low", "high", "coefficient", "largest_deviation", "last_exponent")
    kinds = {
        **dict.fromkeys(texts, "string"),
        **dict.fromkeys(counts, "int64"),
        **dict.fromkeys(numbers, "float64"),
    }
    growth = TableSchema("growth", {name: (kind, "see Growth and PowerLaw") for name, kind in kinds.items()})
    write_parquet(path, growth.table([law.row() for law in laws]))


def about_lines(about: Mapping[str, Any]) -> list[str]:
    """What a measurement says of itself: machine, versions, commit, and the plan, wrapped."""
    machine = dict(about.get("environment", {}))
    versions = ", ".join(f"{name} {version}" for name, version in machine.pop("versions", {}).items())
    command = " ".join(machine.pop("command", []))
    texts = [", ".join(f"{key} {value}" for key, value in flatten(machine)), versions, command]
    plan = dict(about.get("plan", {}))
    sizes = [_size_text(size) for size in plan.pop("sizes", [])]
    chosen = [f"{key} {value}" for key, value in flatten({**plan, "parameters": sizes}) if value != "none"]
    return [
        line
        for text in [*texts, ", ".join(chosen)]
        for line in textwrap.wrap(text, 108, subsequent_indent="  ", break_on_hyphens=False)
    ]


def _size_text(size: Mapping[str, Any]) -> str:
    width = size.get("width")
    return f"{size['parameters']:,}" + (f" (width {width:.4g})" if width is not None else "")


def _dates(measured: Sequence[Measured]) -> str:
    first, last = (
        datetime.fromtimestamp(pick(pick(entry.started_s) for entry in measured), UTC) for pick in (min, max)
    )
    return f"measured from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def _of_view(view: ScalingView, laws: Sequence[Growth], out: Path) -> list[str]:
    drawn = draw(view, out)
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
