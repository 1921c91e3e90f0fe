"""The page of simulated rounds over a grid: its sections, figures, and the fitted exponents as a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from raysim.formats import significant
from raysim.studies.figure import stacked
from raysim.studies.rounds.growth import GrowthCell
from raysim.studies.scaling.figures import draw
from raysim.studies.scaling.page import GROWTH, growth_table
from raysim.studies.scaling.read import MatrixSize, OneMatrix, views
from raysim.studies.scaling.sections import by_clients, count, sections_of
from raysim.studies.stages import AFTER, WHOLE
from raysim.studies.study import Page, picture
from raysim.studies.table import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

NOTES = f"""\
A round is the engine's own: local training, upload, the defense (Krum unless another is named), evaluation, telemetry, tables and a checkpoint. Each repeat
has client actors of its own and two rounds that warm up; its seconds are the median of the rounds that are timed after
them. The first column names the defense if there are several, and says how many clients sit in an actor (auto: a rule) and what share
of a GPU each reserves.
Small models train in groups of clients that no call parts, so of many actors only as many train as there are groups. {GROWTH}"""

SECONDS = "seconds a round, medians of stages"


def page_of(tables: Mapping[str, pa.Table], planned: Sequence[GrowthCell], left_out: Sequence[str]) -> Page:
    """The page, its figures, and the fitted exponents as the table `growth`. planned: what was to be measured, in its order."""
    rows, memory = (tables[name].to_pylist() for name in ("rounds", "memory"))
    seen = views_of(rows, memory, planned)
    figures: dict[str, tuple[str, Figure]] = {}
    sections = [_digests(rows), NOTES]
    for view in seen:
        first, *rest = sections_of(view, draw(view, figures))
        sections += [
            f"## {view.title}",
            first,
            _actors(view, rows, several=several_defenses(planned)),
            after(view),
            *rest,
            *_stacked(view, figures),
        ]
    if left_out:
        sections.append("\n".join(["## Left out", "", *(f"- {line}" for line in left_out)]))
    return Page(sections, figures, {"growth": growth_table(seen)})


def several_defenses(planned: Iterable[GrowthCell]) -> bool:
    """Whether rows must name their defense to be told apart."""
    return len({cell.rule for cell in planned}) > 1


def views_of(rows: Iterable[Row], memory: Sequence[Row], planned: Sequence[GrowthCell]) -> list[OneMatrix]:
    """One view a case, whose methods are the defenses and the ways in which clients sit in actors; the timed rounds of a repeat
    count as one, with their median.
    """
    several = several_defenses(planned)

    def as_method(row: Row) -> Row:
        """A row with the names that scaling's tables have."""
        variant = _cell_of(row).variant(several=several)
        return {**row, "defense": variant, "spilled_bytes": 0, "machine_cpus": 0}

    def group(row: Row) -> tuple[str, str]:
        return row["case"], f"{row['case']}: {row['model']}, d = {row['parameters']:,} parameters"

    grouped: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in map(as_method, rows):
        grouped[*vars(_cell_of(row)).values(), row["stage"]].append(row)
    every = [_of_repeat(found) for found in grouped.values()]
    variants = [cell.variant(several=several) for cell in planned]
    what = "defense; clients in actors" if several else "clients in actors"
    return views(every, [*map(as_method, memory)], variants, group, what)


def _cell_of(row: Row) -> GrowthCell:
    return GrowthCell(**{field.name: row[field.name] for field in fields(GrowthCell)})


def _of_repeat(rows: Sequence[Row]) -> Row:
    """The timed rounds of a repeat as one."""
    middle = {
        name: float(np.median([row[name] for row in rows]))
        for name in (
            "wall_s",
            "busy_s",
            "bytes_moved",
            "bytes_returned",
            "bytes_to_one_node",
            "bytes_spilled",
            "bytes_restored",
        )
    }
    most = {name: max(row[name] for row in rows) for name in ("tasks", "nodes_used", "peak_memory_bytes")}
    return {**rows[0], **middle, **most, "digest": rows[-1]["digest"]}


def _actors(view: OneMatrix, rows: Sequence[Row], *, several: bool) -> str:
    """Actors, where they sat, and rounds an hour, by K."""
    names = ("actors", "actor_nodes", "actor_gpus", "clients_per_stack")
    of_cell = {_cell_of(row): [row[name] for name in names] for row in rows}
    actors = {
        (cell.variant(several=several), view.size(cell.clients, cell.nodes)): found
        for cell, found in of_cell.items()
        if view.title.startswith(f"{cell.case}: ")
    }

    def cell(variant: str, stage: str, size: MatrixSize) -> str:
        if (whole := view.found.get((variant, WHOLE, size))) is None:
            return ""
        sat, on, gpus, together = actors[variant, size]
        shared = f", {count(gpus, 'GPU')}" if gpus else ""
        return f"{3600 / whole.wall_s.median:,.0f} ({sat} on {on}{shared}; {together})"

    title = "Rounds an hour (actors on nodes, GPUs they share; clients that train together)"
    return by_clients(view, title, cell)


def after(view: OneMatrix) -> str:
    """Seconds from the last client's end to the verdict's, and what several nodes leave of one's; "" where nobody knows."""

    def cell(variant: str, stage: str, size: MatrixSize) -> str:
        if (found := view.found.get((variant, stage, size))) is None:
            return ""
        alone = view.found.get((variant, stage, size._replace(nodes=1)))
        share = f" ({found.wall_s.median / alone.wall_s.median:.2f})" if alone and size.nodes > 1 else ""
        return f"{significant(found.wall_s.median)}{share}"

    lines = [(variant, AFTER, variant) for variant in view.defenses]
    title = "Seconds from the last client's end to the verdict's (share of one node's)"
    return by_clients(view, title, cell, lines=lines)


def _stacked(view: OneMatrix, figures: dict[str, tuple[str, Figure]]) -> list[str]:
    """A figure of the stages against K for each way to sit."""
    sections = []
    for number, variant in enumerate(view.defenses):
        name, caption = f"stages{view.slug}-{number}", f"Stages of a round against K: {variant}"
        bars = {
            f"{count(nodes, 'node')}, {variant}": {
                f"K = {clients}": {entry.stage: entry.wall_s.median for entry in found}
                for clients in view.clients
                if (found := view.stages(variant, clients, nodes))
            }
            for nodes in view.nodes
        }
        shown = stacked({title: found for title, found in bars.items() if found}, x=SECONDS)
        figures[name] = (caption, shown)
        sections.append(picture(name, caption))
    return sections


def _digests(rows: Sequence[Row]) -> str:
    """Whether all ways to spread the same clients ended, for each defense, in the same bytes."""
    found: dict[tuple[str, str, int], set[tuple[int, str]]] = defaultdict(set)
    for row in rows:
        if row["stage"] == WHOLE:
            found[row["case"], row["rule"], row["clients"]].add((row["round"], row["digest"]))
    different = [
        f"{case}, {rule}, K = {clients}"
        for (case, rule, clients), seen in found.items()
        if len(seen) > len({number for number, _ in seen})
    ]
    if different:
        return f"**RESULTS DIFFER between nodes, actors or repeats: {'; '.join(different)}.**"
    each = ", for each defense" if len({rule for _, rule, _ in found}) > 1 else ""
    return (
        f"Equal global parameters after every round on all numbers of nodes and actors, in all repeats{each}."
    )
