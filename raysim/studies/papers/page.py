"""The page of a paper: reported beside measured, a section a table, and the figure of one against the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raysim.formats import UNDEFINED
from raysim.presets import Preset, Scale
from raysim.studies import markdown
from raysim.studies.papers.figures import figures_of
from raysim.studies.papers.measures import is_share, label
from raysim.studies.papers.study import ReproducePlan
from raysim.studies.study import Page
from raysim.studies.table import Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

DOUBT = "(?)"
HOW_TO_READ = (
    "reported | measured ± standard deviation over seeds; – is undefined, (?) contradicts the paper itself"
)


@dataclass(frozen=True)
class PaperCell:
    """A preset, what its seeds gave, and those without numbers."""

    preset: Preset
    measured: Mapping[str, Values]
    missing: Sequence[int] = ()

    def entry(self, key: str) -> str:
        """`reported | measured ± spread`; a dash is the paper's or an undefined measure; "" for a measure of others."""
        if key not in self.preset.metrics:
            return ""
        values = self.measured.get(key, Values.of([]))
        spread = "" if math.isnan(values.deviation) else f" ± {number(key, values.deviation)}"
        measured = f"| {number(key, values.mean)}{spread}"
        if key not in self.preset.reported:
            return measured
        doubt = DOUBT if key in self.preset.doubts else ""
        return f"{number(key, self.preset.reported[key])}{doubt} {measured}"

    def remarks(self, scale: Scale) -> list[str]:
        """What stands in for what, what the paper's own numbers contradict, and what went wrong."""
        doubted = [f"{DOUBT} {label(key)}: {why}" for key, why in self.preset.doubts.items()]
        stand_ins = [self.preset.stand_ins] if scale == "small" and self.preset.stand_ins else []
        lost = [f"not run: seed {', '.join(map(str, self.missing))}"] if self.missing else []
        return [*stand_ins, *doubted, *lost]


def page_of(plan: ReproducePlan, tables: Mapping[str, pa.Table]) -> Page:
    """See Study."""
    table = tables["measures"]
    found = gathered(table, "value", "preset", "measure")
    ran = set(zip(table["preset"].to_pylist(), table["seed"].to_pylist(), strict=True))
    cells = {
        name: [
            PaperCell(
                preset,
                {key: values for (of, key), values in found.items() if of == preset.name},
                [seed for seed in plan.seeds if (preset.name, seed) not in ran],
            )
            for preset in presets
        ]
        for name, presets in plan.tables.items()
    }
    sections = [f"## {name}\n\n{section(of_table, plan.scale)}" for name, of_table in cells.items()]
    caption = f"{plan.paper}: measured against reported, {plan.scale} scale"
    figure = _figure([cell for of_table in cells.values() for cell in of_table])
    figures = {} if figure is None else {"measured": (caption, figure)}
    return Page([*sections, HOW_TO_READ], figures | figures_of(plan.tables, found, tables["drawn"]))


def keys(cells: Sequence[PaperCell]) -> list[str]:
    """The measures of a table: those of any of its cells."""
    return list(dict.fromkeys(key for cell in cells for key in cell.preset.metrics))


def section(cells: Sequence[PaperCell], scale: Scale) -> str:
    """A table, and below it what has to be said about its cells, each remark once."""
    shown = keys(cells)
    rows = [[cell.preset.cell, *map(cell.entry, shown)] for cell in cells]
    about: dict[str, list[str]] = {}
    for cell in cells:
        for remark in cell.remarks(scale):
            about.setdefault(remark, []).append(cell.preset.cell)
    said = [
        f"- {remark}" + ("" if len(names) == len(cells) else f" ({', '.join(names)})")
        for remark, names in about.items()
    ]
    return "\n".join([markdown.table(["cell", *map(label, shown)], rows), "", *said])


def number(key: str, value: float | None) -> str:
    """A value as the papers print it: percent with one decimal, rates with three.

    >>> number("main_accuracy", 0.9157), number("recall", 1.0), number("precision", None)
    ('91.6', '1.000', '-')
    """
    if value is None or math.isnan(value):
        return UNDEFINED
    return f"{100 * value:.1f}" if is_share(key) else f"{value:.3f}"


def _figure(cells: Sequence[PaperCell]) -> Figure | None:
    """Every rate and share that a paper reports and its runs define; None without one."""
    from raysim.report.drawing import QUIET
    from raysim.studies.figure import panels, style

    points: dict[str, list[tuple[float, Values]]] = {}
    for cell in cells:
        for key, reported in cell.preset.reported.items():
            here = cell.measured.get(key)
            if reported is not None and not key.endswith("_s") and here is not None and here.known.size:
                points.setdefault(label(key), []).append((reported, here))
    if not points:
        return None
    figure, (axes,) = panels(1, height=5.0)
    axes.plot([0, 1], [0, 1], color=QUIET, lw=1, ls=":")
    for place, (name, found) in enumerate(points.items()):
        at, values = [reported for reported, _ in found], [values.mean for _, values in found]
        bars = [values.deviation if values.known.size > 1 else 0.0 for _, values in found]
        drawn = axes.errorbar(at, values, yerr=bars, label=name, **style(place, ls="", elinewidth=1))
        for line in drawn.lines[2]:
            line.set_alpha(0.25)
    axes.set(xlabel="reported", ylabel="measured, mean and standard deviation over seeds")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure
