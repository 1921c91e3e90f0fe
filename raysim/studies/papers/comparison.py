"""Reported beside measured, as a table on the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raysim.formats import UNDEFINED
from raysim.presets import Scale
from raysim.studies.papers.cells import PaperCell
from raysim.studies.papers.measures import is_share, label

DOUBT = "(?)"
NOT_REPORTED = ""


def header(cells: Sequence[PaperCell]) -> list[str]:
    """The column headings of a table."""
    return ["cell", *map(label, keys(cells)), "notes"]


def lines(cells: Sequence[PaperCell], scale: Scale) -> list[list[str]]:
    """A line a cell: `reported | measured ± spread` in each column, and what has to be said about it."""
    shown = keys(cells)
    return [[cell.preset.cell, *(entry(cell, key) for key in shown), notes(cell, scale)] for cell in cells]


def keys(cells: Sequence[PaperCell]) -> list[str]:
    """The measures of a table: those of any of its cells."""
    return list(dict.fromkeys(key for cell in cells for key in cell.preset.metrics))


def entry(cell: PaperCell, key: str) -> str:
    """`reported | measured ± spread`; a dash is the paper's or an undefined measure."""
    if key not in cell.preset.metrics:
        return NOT_REPORTED
    mean, spread = cell.mean(key), cell.spread(key)
    measured = number(key, mean) + ("" if math.isnan(spread) else f" ± {number(key, spread)}")
    if key not in cell.preset.reported:
        return f"| {measured}"
    doubt = DOUBT if key in cell.preset.doubts else ""
    return f"{number(key, cell.preset.reported[key])}{doubt} | {measured}"


def number(key: str, value: float | None) -> str:
    """A value as the papers print it: percent with one decimal, rates with three.

    >>> number("main_accuracy", 0.9157), number("recall", 1.0), number("precision", None)
    ('91.6', '1.000', '-')
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    return f"{100 * value:.1f}" if is_share(key) else f"{value:.3f}"


def notes(cell: PaperCell, scale: Scale) -> str:
    """What stands in for what, what the paper's own numbers contradict, and what went wrong."""
    return "; ".join(remarks(cell, scale))


def remarks(cell: PaperCell, scale: Scale) -> list[str]:
    """The notes of a cell, one by one."""
    doubted = [f"{DOUBT} {label(key)}: {why}" for key, why in cell.preset.doubts.items()]
    stand_ins = [cell.preset.stand_ins] if scale == "small" and cell.preset.stand_ins else []
    return [*stand_ins, *doubted, *([f"not run: {cell.problem}"] if cell.problem else [])]


def markdown(title: str, cells: Sequence[PaperCell], scale: Scale) -> str:
    """A section with a table, and below it what has to be said about its cells, each remark once."""
    rows = [
        header(cells)[:-1],
        ["---"] * len(header(cells)[:-1]),
        *(line[:-1] for line in lines(cells, scale)),
    ]
    table = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |" for texts in rows)
    about: dict[str, list[str]] = {}
    for cell in cells:
        for remark in remarks(cell, scale):
            about.setdefault(remark, []).append(cell.preset.cell)
    said = [
        f"- {remark}" + ("" if len(names) == len(cells) else f" ({', '.join(names)})")
        for remark, names in about.items()
    ]
    return "\n".join([f"### {title}\n\n{table}\n", *said, *([""] if said else [])])
