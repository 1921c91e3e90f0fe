"""The page of a sweep: means with intervals over the seeds, as Markdown, CSV and LaTeX; a heat map or a curve."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raysim.formats import UNDEFINED, rate, significant
from raysim.studies import markdown
from raysim.studies.kept_runs import MEASURES
from raysim.studies.latex import booktabs
from raysim.studies.study import Page
from raysim.studies.sweep import AS_GIVEN, SweepPlan, points_of
from raysim.studies.table import Groups, Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


def page_of(plan: SweepPlan, table: pa.Table) -> Page:
    """A row a point, a column a key and a measure that any run defines."""
    found = {measure: gathered(table, measure, "point") for measure in MEASURES}
    points = points_of(plan, table["point"].to_pylist())
    shown = [m for m in MEASURES if any(found[m][point].known.size for point in points)]
    head = [*plan.varied, "seeds", *(MEASURES[m] for m in shown)]
    rows = [
        [
            *values_of(plan, point),
            str(found["round_s"][point].all.size),
            *(found[m][point].mean_text(significant if m.endswith("_s") else rate) for m in shown),
        ]
        for point in points
    ]
    missing = [f"{point}, seed {seed}" for point, seed in _missing(plan, table)]
    notes = "Means over the seeds ± half of the 95 % confidence interval (Student's t)."
    sections = [markdown.table(head, rows), notes]
    if missing:
        sections.append("\n".join(["Runs without numbers:", "", *(f"- {line}" for line in missing)]))
    figures = {}
    if points and plan.varied:
        caption = f"{MEASURES[plan.metric]} over {' and '.join(plan.varied[:2])}"
        figures["means"] = (caption, _figure(plan, points, found[plan.metric]))
    numbers = _numbers(plan, points, found, shown)
    return Page(
        sections, figures, files={"sweep-means.csv": numbers, "sweep-means.tex": booktabs(head, rows)}
    )


def values_of(plan: SweepPlan, point: str) -> list[str]:
    """The values of the keys that vary at a point, in the keys' order."""
    if point == AS_GIVEN:
        return []
    found = {}
    for word in point.split(" "):
        key, _, value = word.partition("=")
        found[key] = value
    return [found.get(key, UNDEFINED) for key in plan.varied]


def _missing(plan: SweepPlan, table: pa.Table) -> list[tuple[str, int]]:
    known = set(zip(table["point"].to_pylist(), table["seed"].to_pylist(), strict=True))
    return [(point, seed) for point in plan.points() for seed in plan.seeds if (point, seed) not in known]


def _numbers(plan: SweepPlan, points: Sequence[str], found: dict[str, Groups], shown: Sequence[str]) -> str:
    """The table with all digits, as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*plan.varied, *(f"{m}_{part}" for m in shown for part in ("mean", "half_interval"))])
    for point in points:
        cells = [(found[m][point].mean, found[m][point].half_interval) for m in shown]
        writer.writerow([*values_of(plan, point), *(number for pair in cells for number in pair)])
    return out.getvalue()


def _figure(plan: SweepPlan, points: Sequence[str], found: dict[str, Values]) -> Figure:
    """Over numbers of one key: a curve. Over other values of one, or over points: their names down. Over two or more: heat maps
    over the first two, one for each setting of the others. Values that go together count as those of one key.
    """
    from raysim.studies.figure import heat_map, intervals_down, panels, style

    label = MEASURES[plan.metric]
    at = {_place(plan, point): found[point] for point in points}
    names = [", ".join(plan.together)] if plan.together else []
    names += [key for key in plan.varied if key not in plan.together]
    first = list(dict.fromkeys(values[0] for values in at))
    if len(names) == 1:
        spread = f"{label}, mean and 95 % interval"
        if not all(word.replace(".", "", 1).isdecimal() for word in first):
            return intervals_down({name: at[(name,)] for name in first}, spread)
        figure, (axes,) = panels(1)
        halves = np.nan_to_num([at[(name,)].half_interval for name in first])
        means = [at[(name,)].mean for name in first]
        axes.errorbar([float(name) for name in first], means, yerr=halves, capsize=3, **style(0))
        axes.set(xlabel=names[0], ylabel=spread)
        return figure
    second = list(dict.fromkeys(values[1] for values in at))
    others = list(dict.fromkeys(values[2:] for values in at))
    figure, drawn = panels(len(others), height=1.6 + 0.5 * len(first))
    grids = [
        np.array([[at[a, b, *rest].mean if (a, b, *rest) in at else np.nan for b in second] for a in first])
        for rest in others
    ]
    low, high = (
        float(pick(np.concatenate([grid.ravel() for grid in grids]))) for pick in (np.nanmin, np.nanmax)
    )
    for axes, values, rest in zip(drawn, grids, others, strict=True):
        heat_map(axes, first, second, values, low, high)
        axes.set(xlabel=names[1], ylabel=names[0] if axes is drawn[0] else "")
        if axes is not drawn[0]:
            axes.set_yticklabels([])
        axes.set_title(", ".join([label, *rest]), loc="left", fontsize=10)
    return figure


def _place(plan: SweepPlan, point: str) -> tuple[str, ...]:
    """A point's coordinates: the values that go together as one, then those of the other keys that vary."""
    values = dict(zip(plan.varied, values_of(plan, point), strict=True))
    together = [values.pop(key) for key in plan.together]
    return (*([", ".join(together)] if together else []), *values.values())
