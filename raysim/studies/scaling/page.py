"""The page of a scaling measurement: its sections, figures, and the fitted exponents as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from raysim.composition.registry import defense_title
from raysim.report.tables import ids
from raysim.runs.table_schema import TableSchema
from raysim.studies.scaling.figures import draw
from raysim.studies.scaling.read import OneMatrix, digest_mismatches, laws, views
from raysim.studies.scaling.sections import count, growth_in_parameters, sections_of
from raysim.studies.study import Page
from raysim.studies.table import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

GROWTH = """\
Seconds are wall-clock seconds: median [first quartile, third quartile] over the repeats. **Growth** is the exponent p of
seconds ~ K^p, a least-squares line through the medians in log-log, one point for each K, with its 95 % confidence
interval (Student's t, number of K - 2 degrees of freedom; three K make it wide). *Last step* is the exponent between the
two largest K alone, and *off* the farthest that a median lies from the line; † marks more than 20 %: no single power law
describes these K, often because a constant overhead hides the growth at small K, and the last step says more."""

NOTES = f"""\
What is timed is the method's own work in one round: `apply`, or an attack's `craft`. {GROWTH} Exponents of stages of a few
milliseconds speak of scheduling, not of work. A *limit* is one copy of the matrix, or one product U Uᵀ in float64 (Gram),
with the same workers on the same matrix in the same repeat; ratios to it are medians of the ratio in one repeat. *Products alone*
are as many products in float64 for any K and nodes, which read and move nothing: their speed-up is the most that the cores of
this machine give, which share its clock and memory."""


def page_of(tables: Mapping[str, pa.Table], planned: Sequence[str]) -> Page:
    """The page, its figures, and the fitted exponents as the table `growth`. planned: methods in their order."""

    def group(row: Row) -> tuple[str, str]:
        return f"d{row['parameters']}", f"{row['model']}, d = {row['parameters']:,} parameters"

    rows, memory = tables["stages"].to_pylist(), tables["memory"].to_pylist()
    seen = views(sorted(rows, key=lambda row: int(row["parameters"])), memory, planned, group)
    figures: dict[str, tuple[str, Figure]] = {}
    sections = [_digests(seen), NOTES]
    for view in seen:
        drawn = draw(view, figures)
        nodes = f"{', '.join(map(str, view.nodes))} node{'s' * (view.nodes != [1])}"
        grid = f"K = {', '.join(map(str, view.clients))} clients, on {nodes}."
        sections += [f"### {view.title}\n\n{grid}", *sections_of(view, drawn)]
    return Page([*sections, growth_in_parameters(seen)], figures, {"growth": growth_table(seen)})


def growth_table(seen: Sequence[OneMatrix]) -> pa.Table:
    """One row a fit. What is 0 varies; the others: see PowerLaw."""
    kinds = {
        **dict.fromkeys(("defense", "stage", "along"), "string"),
        **dict.fromkeys(("clients", "parameters", "nodes", "points", "smallest", "largest"), "int64"),
        **dict.fromkeys(
            ("exponent", "low", "high", "coefficient", "largest_deviation", "last_exponent"), "float64"
        ),
    }
    schema = TableSchema("growth", {name: (kind, "see PowerLaw") for name, kind in kinds.items()})
    every = [entry for view in seen for entry in view.found.values()]
    fitted = {"parameters": laws(every, "parameters")} if len({view.parameters for view in seen}) > 1 else {}
    rows = [
        {"defense": method, "stage": stage, "along": along, **size._asdict(), **asdict(law)}
        for along, found in [*(("clients", view.laws) for view in seen), *fitted.items()]
        for (method, stage, size), law in found.items()
    ]
    return schema.table(rows)


def _digests(seen: Sequence[OneMatrix]) -> str:
    different, compared = digest_mismatches(entry for view in seen for entry in view.found.values())
    if not compared:
        return "No result was computed twice, so nothing is said of equal bytes."
    if not different:
        return (
            f"Equal bytes on every number of nodes and in every repeat, for all {compared} results compared."
        )
    lines = [
        f"**RESULTS DIFFER: {len(different)} of {compared} results did not always end in the same bytes.**",
        "",
    ]
    for (method, size), digests in different.items():
        variants = "; ".join(f"{digest[:12]}: {_runs(runs)}" for digest, runs in digests.items())
        where = f"{defense_title(method)}, K = {size.clients}, d = {size.parameters:,}"
        lines.append(f"- {where}: {variants}")
    return "\n".join(lines)


def _runs(runs: Sequence[tuple[int, int]]) -> str:
    return ", ".join(
        f"{count(nodes, 'node')} (repeat {ids(repeat for at, repeat in runs if at == nodes)})"
        for nodes in sorted({nodes for nodes, _ in runs})
    )
