"""The one style of the studies' figures: Okabe and Ito's colours, a marker beside each, sizes as ticks, SVG and PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysim.studies.table import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_HEIGHT = 4.2
"""Inches."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288")
MARKERS = "osDv^P*X"


def panels(count: int, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, in the style of the report's."""
    from matplotlib.figure import Figure

    from raysim.report.drawing import GRID, QUIET, WIDE

    figure = Figure(figsize=(WIDE, height), layout="constrained")
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


def style(place: int, **more: Any) -> dict[str, Any]:
    """Colour and marker of the curve at a place in the legend."""
    marker = MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": marker, "ms": 5, "lw": 1.4, **more}


def curve(
    axes: Axes, at: Sequence[float], values: Sequence[Values], place: int, label: str, **more: Any
) -> None:
    """Medians with bars from quartile to quartile."""
    middle = np.array([found.median for found in values])
    ends = np.array([found.quartiles for found in values]).reshape(-1, 2).T
    bars = np.abs(ends - middle)
    axes.errorbar(at, middle, yerr=bars, label=label, capsize=3, **style(place, **more))


def finish(
    axes: Axes, *, title: str, x: str, ticks: Sequence[int], log: str = "xy", legend: bool = True
) -> None:
    """Title, the sizes measured as ticks, and the legend. log: which axes are logarithmic; others begin at 0."""
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

    from raysim.report.drawing import INK, QUIET

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


def heat_map(
    axes: Axes,
    rows: Sequence[str],
    across: Sequence[str],
    values: NDArray[np.float64],
    low: float,
    high: float,
) -> None:
    """Values [rows, across] as shades of cividis, which reads the same for all, each written in its cell."""
    from raysim.formats import rate

    axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(rows)), rows)
    axes.yaxis.grid(visible=False)
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value < middle else "black"
        axes.text(column, row, rate(float(value)), ha="center", va="center", color=ink, fontsize=9)


def save(figure: Figure, path: Path) -> None:
    """As SVG, whose bytes follow from what is drawn alone, and as PNG; path: without an ending."""
    import matplotlib

    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
    with matplotlib.rc_context({"svg.hashsalt": "raysim"}):
        figure.savefig(path.with_name(f"{path.name}.svg"), metadata={"Date": None})


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
