"""What a study leaves behind: its numbers as Parquet, the same as Markdown, and a figure.

<name>.parquet   one row a measurement; the schema metadata `about` says how it was made, as JSON
<name>.md        where and how, the tables, notes
<name>.png       the figure
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim.formats import significant
from raysim.runs.directory import environment, write_atomically
from raysim.studies.report import machine_lines
from raysim.studies.scaling.fit import power_law

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_HEIGHT = 4.2
"""Inches."""


@dataclass(frozen=True)
class Times:
    """Wall-clock seconds of the counted repeats."""

    wall_s: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return float(np.median(self.wall_s))

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile."""
        low, high = np.quantile(self.wall_s, (0.25, 0.75))
        return float(low), float(high)

    def columns(self) -> dict[str, Any]:
        """wall_s (all repeats), median_s, q1_s, q3_s."""
        low, high = self.quartiles
        return {"wall_s": list(self.wall_s), "median_s": self.median, "q1_s": low, "q3_s": high}

    def __str__(self) -> str:
        low, high = self.quartiles
        return f"{significant(self.median)} ({significant(low)} to {significant(high)})"


@dataclass(frozen=True)
class Study:
    """A finished study. rows: all with the same keys, units in their names. sections: Markdown blocks."""

    name: str
    title: str
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    sections: Sequence[str]
    figure: Figure

    def markdown(self) -> str:
        """The whole document."""
        shown = {key: _words(value) for key, value in self.settings.items()}
        machine = [f"    {line}" for line in machine_lines(**shown)]
        body = [block for section in self.sections for block in (section, "")]
        return "\n".join(
            [f"# {self.title}", "", *machine, "", *body, f"![{self.title}]({self.name}.png)", ""]
        )

    def write(self, folder: Path) -> str:
        """Write the three files; returns the Markdown text."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = self.markdown()
        about = json.dumps(environment(study=self.name, settings=dict(self.settings)))
        keys = [row.keys() for row in self.rows]
        if any(found != keys[0] for found in keys):  # pyarrow would drop what the first row has not
            raise ValueError(f"the rows of study {self.name} have different columns")
        table = pa.Table.from_pylist([dict(row) for row in self.rows])
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({"about": about}), sink)
        write_atomically(folder / f"{self.name}.parquet", sink.getvalue().to_pybytes())
        write_atomically(folder / f"{self.name}.md", text.encode())
        self.figure.savefig(folder / f"{self.name}.png", dpi=150)
        return text


def prepare(folder: Path) -> None:
    """Make the folder before the work begins; OSError where that is not possible."""
    folder.mkdir(parents=True, exist_ok=True)


def settings_of(plan: Any, **more: Any) -> dict[str, Any]:
    """A plan's fields as plain values, for `Study.settings`."""
    return {**json.loads(json.dumps(asdict(plan))), **more}


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    marks = [":---", *["---:"] * (len(head) - 1)]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def growth_text(sizes: Sequence[int], values: Sequence[float]) -> str:
    """The exponent of growth with its 95 % confidence interval, and the slope between the two largest sizes.

    >>> growth_text([10, 100, 1000], [3, 300, 30000])
    '2.00 (2.00 to 2.00), last 2.00'
    """
    law = power_law(sizes, [np.array([value]) for value in values])
    if law is None:
        return "needs 3 sizes"
    return f"{law.exponent:.2f} ({law.low:.2f} to {law.high:.2f}), last {law.last_exponent:.2f}"


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, in the style of the report's."""
    from matplotlib.figure import Figure

    from raysim.report.figures import GRID, QUIET, WIDTH

    figure = Figure(figsize=(WIDTH, PANEL_HEIGHT), layout="constrained")
    found = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axes in found:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color("#aab1b6")
        axes.tick_params(colors=QUIET, labelsize=9, length=3)
        axes.yaxis.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=QUIET, fontsize=9)
    return figure, found


def finish(
    axes: Axes, *, title: str, x: str, ticks: Sequence[int], log: str = "xy", legend: bool = True
) -> None:
    """Title, the sizes measured as ticks, and the legend. log: which axes are logarithmic; others begin at 0."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    from raysim.report.figures import INK, QUIET

    if "x" in log:
        axes.set_xscale("log")
    else:
        axes.set_xlim(left=0)
    if "y" in log and np.isfinite(axes.dataLim.minposy):  # else there is nothing that has a logarithm
        axes.set_yscale("log")
        decades = np.log10(axes.get_ylim()[1] / axes.get_ylim()[0])
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    shown = _readable(ticks, "x" in log)
    axes.set_xticks(shown, [f"{tick:,}" for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(which="minor", colors=QUIET, labelsize=8, length=2)
    axes.set_xlabel(x)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    if legend:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.14),
            ncols=2,
            frameon=False,
            fontsize=8.5,
            labelcolor=INK,
        )


def _readable(ticks: Sequence[int], log_x: bool) -> list[int]:
    """Those ticks whose labels do not run into each other: at least a tenth of the axis apart."""
    if len(ticks) < 2:
        return list(ticks)
    places = np.log(ticks) if log_x else np.asarray(ticks, float)
    least = 0.1 * (places[-1] - places[0])
    kept = [0]
    for place in range(1, len(ticks)):
        if places[place] - places[kept[-1]] >= least:
            kept.append(place)
    return [ticks[place] for place in kept]


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
