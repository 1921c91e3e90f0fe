"""The page of simulated rounds over a grid: its sections, figures, and the fitted exponents as a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from raysim.studies.figure import stacked
from raysim.studies.rounds.growth import GrowthCell
from raysim.studies.scaling import sections
from raysim.studies.scaling.figures import draw
from raysim.studies.scaling.fit import growth
from raysim.studies.scaling.page import growth_table
from raysim.studies.scaling.read import (
    MatrixSize,
    Measured,
    Setup,
    read_memory,
    read_stages,
    setup_of,
    size_of,
)
from raysim.studies.scaling.view import ScalingView, views
from raysim.studies.stages import WHOLE
from raysim.studies.study import Page, picture
from raysim.studies.table import Row

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

NOTES = """\
A round is the engine's own: local training, upload, Krum, evaluation, telemetry, tables and a checkpoint. Each repeat
has client actors of its own and two rounds that warm up; its seconds are the median of the rounds that are timed after
them. Seconds are wall-clock seconds: median [first quartile, third quartile] over the repeats. What the tables call a
*defense* is here how clients sit in actors: how many in one (auto: a rule) and the share of a GPU that each reserves.
Small models train in groups of clients that no call parts, so of many actors only as many train as there are groups.
**Growth** is the exponent p of seconds ~ K^p, a least-squares line through the medians in log-log, one point for each
number of clients K, with its 95 % confidence interval (Student's t, number of K - 2 degrees of freedom). *Last step* is
the exponent between the two largest K alone, and *off* the farthest that a median lies from the line; † marks more than
20 %: no single power law describes these K."""

SECONDS = "seconds a round, medians of stages"


def page_of(tables: Mapping[str, pa.Table], planned: Sequence[str], left_out: Sequence[str]) -> Page:
    """The page, its figures, and the fitted exponents as the table `growth`. planned: variants in their order."""
    rows = [as_defense(row) for row in tables["rounds"].to_pylist()]
    measured = read_rounds(rows, planned)
    laws = growth(measured, "clients")
    fits, memory = sections.Fits(laws), read_memory([as_defense(row) for row in tables["memory"].to_pylist()])
    figures: dict[str, tuple[str, Figure]] = {}
    first, last = (pick(row["started_s"] for row in rows) for pick in (min, max))
    dates = " to ".join(f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (first, last))
    lines = [f"Measured from {dates} UTC.", "", *_digests(rows), "", NOTES, ""]
    for view in views(measured):
        drawn = draw(view, figures)
        lines += [f"## {view.model}, d = {view.parameters:,} parameters, {view.setup.title}", ""]
        lines += sections.seconds(view, fits, drawn)
        lines += _actors(view, rows)
        lines += sections.stages(view, fits, drawn)
        lines += _stacked(view, figures)
        lines += sections.nodes(view, drawn)
        lines += sections.moved(view, drawn)
        lines += sections.memory(view, memory)
    if left_out:
        lines += ["## Left out", "", *(f"- {line}" for line in left_out), ""]
    return Page(["\n".join(lines)], figures, {"growth": growth_table(laws)})


def read_rounds(rows: Iterable[Row], order: Sequence[str]) -> list[Measured]:
    """One entry a stage of a cell, over its repeats: of each, the median over its timed rounds.

    order: the variants as they are to be listed.
    """
    grouped: dict[tuple[Setup, str, MatrixSize, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        at = (setup_of(row), row["defense"], size_of(row), row["stage"], row["repeat"])
        grouped[at].append(row)
    return read_stages([_of_repeat(found) for _, found in sorted(grouped.items())], order)


def as_defense(row: Row) -> Row:
    """A row with the names that scaling's tables have: how clients sit in actors is the defense, the case the updates."""
    return {**row, "defense": _variant(row), "backend": "ray", "updates": row["case"], "spilled_bytes": 0}


def _of_repeat(rows: Sequence[Row]) -> Row:
    """The timed rounds of a repeat as one."""
    medians = {name: float(np.median([row[name] for row in rows])) for name in ("wall_s", "bytes_moved")}
    most = {name: max(row[name] for row in rows) for name in ("tasks", "nodes_used", "peak_memory_bytes")}
    return {**rows[0], **medians, **most, "digest": rows[-1]["digest"]}


def _actors(view: ScalingView, rows: Sequence[Row]) -> list[str]:
    """Actors, where they sat, and rounds an hour, by K."""
    actors = {
        (row["defense"], size_of(row)): [
            row[name] for name in ("actors", "actor_nodes", "actor_gpus", "clients_per_stack")
        ]
        for row in rows
        if setup_of(row) == view.setup
    }
    table = []
    for variant in view.defenses:
        for nodes in view.nodes:
            cells = []
            for clients in view.clients:
                whole = view.get(variant, WHOLE, clients, nodes)
                if whole is None:
                    cells.append("")
                    continue
                count, on, gpus, together = actors[variant, whole.size]
                shared = f", {gpus} GPU{'s' * (gpus > 1)}" if gpus else ""
                cells.append(f"{3600 / whole.median_s:,.0f} ({count} on {on}{shared}; {together})")
            if any(cells):
                table.append([variant, str(nodes), *cells])
    head = ["", "nodes", *(f"K = {clients}" for clients in view.clients)]
    return [
        "#### Rounds an hour (actors on nodes, GPUs they share; clients that train together)",
        "",
        *sections.table(head, table),
    ]


def _stacked(view: ScalingView, figures: dict[str, tuple[str, Figure]]) -> list[str]:
    """A figure of the stages against K for each way to sit."""
    lines = []
    for number, variant in enumerate(view.defenses):
        name, caption = f"stages{view.slug}-{number}", f"Stages of a round against K: {variant}"
        bars = {
            f"{nodes} node{'s' * (nodes > 1)}, {variant}": {
                f"K = {clients}": {entry.stage: entry.median_s for entry in found}
                for clients in view.clients
                if (found := view.stages(variant, clients, nodes))
            }
            for nodes in view.nodes
        }
        figures[name] = (
            caption,
            stacked({title: found for title, found in bars.items() if found}, x=SECONDS),
        )
        lines += [picture(name, caption), ""]
    return lines


def _digests(rows: Sequence[Row]) -> list[str]:
    """Whether all ways to spread the same clients ended in the same bytes."""
    found: dict[tuple[str, int], set[tuple[int, str]]] = defaultdict(set)
    for row in rows:
        if row["stage"] == WHOLE:
            found[row["case"], row["clients"]].add((row["round"], row["digest"]))
    different = [
        f"{case}, K = {clients}"
        for (case, clients), seen in found.items()
        if len(seen) > len({number for number, _ in seen})
    ]
    if different:
        return [f"**RESULTS DIFFER between nodes, actors or repeats: {'; '.join(different)}.**"]
    return ["Equal global parameters after every round on all numbers of nodes and actors, in all repeats."]


def _variant(row: Row) -> str:
    return GrowthCell(**{field.name: row[field.name] for field in fields(GrowthCell)}).variant
