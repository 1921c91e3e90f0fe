"""The one style of the studies' figures: Okabe and Ito's colours, a marker beside each, sizes as ticks, SVG and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysim.formats import significant
from raysim.studies.table import Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_HEIGHT = 4.2
"""Inches."""

LABEL_PT = 9.0

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#332288")
DARK_COLOURS = ("#4fa3e3", "#f58d4e", "#35c49b", "#e7a2c9", "#a4dcff", "#f5bd45", "#a79af2")
"""The same on dark pages."""
MARKERS = "osDv^P*X"
REST, DARK_REST = "#b9bfc4", "#5d666e"
OTHERS = "all others"
LEAST_SHARE = 0.01
"""Parts below this share of every bar are drawn together."""


def panels(count: int, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels side by side, in the style of the report's."""
    from matplotlib.figure import Figure

    from raysim.report.drawing import WIDE, dressed

    figure = Figure(figsize=(WIDE, height), layout="constrained")
    found = [figure.add_subplot(1, count, place + 1) for place in range(count)]
    for axes in found:
        dressed(axes)
    return figure, found


def style(place: int, **more: object) -> dict[str, Any]:
    """Colour and marker of the curve at a place in the legend."""
    marker = MARKERS[place % len(MARKERS)]
    return {"color": COLOURS[place % len(COLOURS)], "marker": marker, "ms": 5, "lw": 1.4, **more}


def curve(
    axes: Axes, at: Sequence[float], values: Sequence[Values], place: int, label: str, **more: object
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
        axes.set_ylim(0, 1.06 * axes.dataLim.y1 if 0 < axes.dataLim.y1 < np.inf else None)
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
    """Values [rows, across] as shades of cividis, which reads the same for all and stays on dark pages, each written in its cell;
    one that is not defined has no shade.
    """
    from raysim.formats import rate
    from raysim.report.drawing import INK, PAPER

    axes.imshow(values, cmap="cividis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(rows)), rows)
    axes.yaxis.grid(visible=False)
    axes.hlines(np.arange(len(rows) - 1) + 0.5, -0.5, len(across) - 0.5, color=PAPER, lw=1.5)
    axes.vlines(np.arange(len(across) - 1) + 0.5, -0.5, len(rows) - 0.5, color=PAPER, lw=1.5)
    middle = (low + high) / 2
    for (row, column), value in np.ndenumerate(values):
        ink = "#fefefe" if value < middle else "#010101" if value >= middle else INK
        axes.text(column, row, rate(float(value)), ha="center", va="center", color=ink, fontsize=9)


def bars(values: Mapping[str, Values], x: str) -> Figure:
    """A bar a name with its median beside it, and a line from quartile to quartile."""
    from raysim.report.drawing import INK

    figure, (axes,) = panels(1, height=1.1 + 0.3 * len(values))
    at = range(len(values))
    middle = [found.median for found in values.values()]
    axes.barh(at, middle, height=0.7, color=COLOURS[0])
    low, high = zip(*(found.quartiles for found in values.values()), strict=True)
    axes.hlines(at, low, high, color=INK, lw=1.6)
    for place, (value, end) in enumerate(zip(middle, high, strict=True)):
        text = significant(value)
        at_end = (max(value, end), place)
        axes.annotate(
            text, at_end, (6, 0), textcoords="offset points", va="center", fontsize=LABEL_PT, color=INK
        )
    _names_down(axes, list(values))
    axes.set_xlim(0.0, 1.12 * max([*middle, *high, np.finfo(float).tiny]))
    axes.set_xlabel(x)
    return figure


def labelled_curves(
    shown: Mapping[str, Mapping[str, Mapping[int, Values]]],
    *,
    x: str,
    y: str,
    log: str = "xy",
    quiet: Sequence[str] = (),
    alike: bool = False,
) -> Figure:
    """Panel -> curve -> size -> values: medians, a band from quartile to quartile, each curve named beside its last point.

    quiet: curves that are there to compare with, grey and dashed. alike: panels have one scale.
    """
    from raysim.report.drawing import QUIET

    most = max(map(len, shown.values()))
    figure, drawn = panels(len(shown), height=max(PANEL_HEIGHT, 1.3 + 0.19 * most))
    ends_of = []
    for axes, (title, curves) in zip(drawn, shown.items(), strict=True):
        ends = []
        for place, (name, sizes) in enumerate(curves.items()):
            at = sorted(sizes)
            if not at:
                continue
            look = style(place, lw=1.6)
            if name in quiet:
                look |= {"color": QUIET, "marker": "", "ls": "--"}
            middle = [sizes[size].median for size in at]
            axes.plot(at, middle, **look)
            low, high = zip(*(sizes[size].quartiles for size in at), strict=True)
            axes.fill_between(at, low, high, color=look["color"], alpha=0.18, lw=0)
            ends.append((at[-1], middle[-1], name, look["color"]))
        ticks = sorted({size for sizes in curves.values() for size in sizes})
        finish(axes, title=title, x=x, ticks=ticks, log=log if ends else "", legend=False)
        ends_of.append((ends, ticks))
    if alike:
        low, high = zip(*(axes.get_ylim() for axes in drawn), strict=True)
        for axes in drawn:
            axes.set_ylim(min(low), max(high))
    for axes, (ends, ticks) in zip(drawn, ends_of, strict=True):
        if ends:
            _end_labels(axes, ends, ticks[-1])
    drawn[0].set_ylabel(y)
    return figure


def spread_out(values: Sequence[float], gap: float, top: float = 1.0) -> NDArray[np.float64]:
    """Positions [n] near the values, in their order, at least `gap` apart and, if they fit, within [0, top].

    The nearest such positions in the least-squares sense: an isotonic regression of values minus the gaps below.
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(order))
    places = np.empty(len(order))
    room = max(top - gap * (len(order) - 1), 0.0)
    places[order] = np.clip(isotonic_regression(np.asarray(values)[order] - steps).x, 0.0, room) + steps
    return places


def _end_labels(axes: Axes, ends: Sequence[tuple[int, float, str, str]], right: int) -> None:
    """Name each line beside its last point (x, y, name, colour), moved apart, outside of the axes on the right."""
    figure = axes.figure
    figure.canvas.draw()  # the layout decides how high the axes are
    height = axes.get_window_extent().height / figure.dpi * 72
    least = -np.inf if axes.get_yscale() == "linear" else axes.get_ylim()[0]
    ends = [(x, max(y, least), name, colour) for x, y, name, colour in ends]
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    edge = axes.get_xlim()[1]
    line = {"arrowstyle": "-", "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 3}
    for (x, y, name, colour), place in zip(ends, spread_out(heights, 1.25 * LABEL_PT / height), strict=True):
        axes.annotate(
            name,
            (x, y),
            (1.06, place),
            xycoords="data",
            textcoords="axes fraction",
            va="center",
            fontsize=LABEL_PT,
            color=colour,
            annotation_clip=False,
            arrowprops={**line, "color": colour},
        )
    axes.set_xlim(right=max(edge, right))


def intervals_down(values: Mapping[str, Values], x: str) -> Figure:
    """Names down, and of each the mean with its 95 % confidence interval."""
    figure, (axes,) = panels(1, height=1.1 + 0.3 * len(values))
    at = range(len(values))
    means = [found.mean for found in values.values()]
    halves = np.nan_to_num([found.half_interval for found in values.values()])
    axes.errorbar(means, at, xerr=halves, capsize=3, **style(0, lw=0, elinewidth=1.2))
    _names_down(axes, [textwrap.fill(name, 44) for name in values])
    axes.set_xlabel(x)
    return figure


def stacked(parts: Mapping[str, Mapping[str, Mapping[str, float]]], x: str) -> Figure:
    """Panel -> bar -> part -> length, parts one after the other: the large ones in colours, all others together in grey."""
    from raysim.report.drawing import INK, PAPER

    parts = {  # what ran in the first round alone has no median
        title: {name: {part: x for part, x in bar.items() if x == x} for name, bar in bars_of.items()}
        for title, bars_of in parts.items()
    }
    shown = large_parts([bar for bars_of in parts.values() for bar in bars_of.values()])
    most = max(map(len, parts.values()))
    figure, panels_of = panels(len(parts), height=1.6 + 0.34 * most)
    for axes, (title, bars_of) in zip(panels_of, parts.items(), strict=True):
        left = np.zeros(len(bars_of))
        for place, name in enumerate([*shown, OTHERS]):
            lengths = np.array([_length(bar, name, shown) for bar in bars_of.values()])
            colour = REST if name == OTHERS else COLOURS[place]
            if lengths.any():
                axes.barh(range(len(left)), lengths, 0.72, left, color=colour, label=name, ec=PAPER, lw=0.6)
            left += lengths
        _names_down(axes, list(bars_of))
        axes.set_xlabel(x)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    handles = {
        label: handle
        for axes in panels_of
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    names = [name for name in (*shown, OTHERS) if name in handles]
    figure.legend(
        [handles[name] for name in names], names, loc="outside lower center", ncols=4, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def large_parts(bars_of: Sequence[Mapping[str, float]]) -> list[str]:
    """The parts that are drawn apart, in their order: of at least LEAST_SHARE of a bar, as many as there are colours."""
    largest: dict[str, float] = {}
    for bar in bars_of:
        whole = sum(bar.values()) or 1.0
        for name, length in bar.items():
            largest[name] = max(largest.get(name, 0.0), length / whole)
    able = [name for name, share in largest.items() if share >= LEAST_SHARE and not name.startswith("(")]
    kept = sorted(able, key=lambda name: -largest[name])[: len(COLOURS)]
    return [name for name in largest if name in kept]


def _length(bar: Mapping[str, float], name: str, apart: Sequence[str]) -> float:
    """Of one part, or of all that are not drawn apart."""
    if name != OTHERS:
        return bar.get(name, 0.0)
    return sum(length for part, length in bar.items() if part not in apart)


def _names_down(axes: Axes, names: Sequence[str]) -> None:
    """Horizontal bars with these names, the first on top, and lines down."""
    from raysim.report.drawing import GRID, INK

    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.yaxis.grid(visible=False)
    axes.xaxis.grid(color=GRID, lw=0.8)
    axes.set_xlim(left=0.0)


def save(figure: Figure, path: Path) -> None:
    """As SVG, whose bytes follow from what is drawn alone and which turns dark with its reader's page, and as PNG; path:
    without an ending.
    """
    from matplotlib.colors import to_hex
    from matplotlib.text import Text

    from raysim.report.drawing import DARK, INK, svg

    for text in figure.findobj(Text):
        if to_hex(text.get_color()) == "#000000":  # what nobody gave a colour
            text.set_color(INK)
    dark = {light.lower(): shown for light, shown in zip(COLOURS, DARK_COLOURS, strict=True)}
    path.with_name(f"{path.name}.svg").write_text(
        svg(figure, {**DARK, **dark, REST: DARK_REST}), encoding="utf-8"
    )
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)


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
