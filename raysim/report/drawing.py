"""How every figure of the report looks, and how it gets onto the page: SVG that turns dark with its reader's page.

No pyplot: nothing here touches matplotlib's current figure. Colours keep their contrast for colour-blind readers, on
light pages and dark ones, and no figure says anything by colour alone.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

WIDE, NARROW = 10.4, 4.7
"""Widths of a figure in inches: for a page on a desk, and for one in a hand. Letters are as large on both."""

INK, QUIET, GRID, LINE, PAPER = "#25303b", "#66717c", "#e4e6e3", "#aab1b6", "#ffffff"
BLUE, GREEN, AMBER, RED, GREY = "#2b6197", "#3c7a5a", "#dfa032", "#b8372b", "#8b98a3"

DARK: Mapping[str, str] = {
    INK: "#dfe5ea",
    QUIET: "#9ba7b2",
    GRID: "#303941",
    LINE: "#56616b",
    PAPER: "#1a2026",
    BLUE: "#6fa8dc",
    GREEN: "#6dbd93",
    AMBER: "#e3b04e",
    RED: "#f0796b",
    GREY: "#8b98a3",
}
"""Colour on a light page -> colour on a dark one. Figures use these alone, and colour maps."""


def data_uri(figure: Figure) -> str:
    """The figure for the `src` of an image. As an image, not inline: element ids of several drawings would collide."""
    return f"data:image/svg+xml;base64,{base64.b64encode(svg(figure).encode()).decode('ascii')}"


def svg(figure: Figure, dark: Mapping[str, str] = DARK) -> str:
    """The figure as SVG without a background; the same bytes for the same figure. dark: its colours on dark pages."""
    buffer = io.StringIO()
    with matplotlib.rc_context(
        {"svg.hashsalt": "raysim"}
    ):  # without it, ids differ from one rendering to the next
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True, dpi=180)
    text = buffer.getvalue()
    head = text.index(">", text.index("<svg")) + 1
    rules = [
        f'[style*="{part}: {light}"],[{part}="{light}"]{{{part}:{shown}!important}}'
        for light, shown in dark.items()
        for part in ("fill", "stroke")
    ]
    style = f"<style>@media (prefers-color-scheme: dark){{{''.join(rules)}}}</style>"
    return text[:head] + style + text[head:]


def figure_of(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that size in inches, with one plot in it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def dressed(axes: Axes, *, ylim: tuple[float, float] | None = None, grid: bool = True) -> None:
    """The frame of a plot: a line below, quiet numbers, lines across."""
    axes.patch.set_visible(False)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=QUIET, labelsize=9, length=3)
    axes.xaxis.label.set(color=QUIET, fontsize=9)
    axes.yaxis.label.set(color=QUIET, fontsize=9)
    if grid:
        axes.yaxis.grid(color=GRID, lw=0.8)
        axes.tick_params(axis="y", length=0)
    if ylim is not None:
        axes.set_ylim(*ylim)
    axes.set_axisbelow(True)


def round_axis(axes: Axes, rounds: NDArray[np.int64]) -> None:
    """Rounds across, whole numbers."""
    axes.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlabel("round")


def legend_above(axes: Axes, handles: Sequence[Artist], width: float = WIDE) -> None:
    """What the marks mean, above the plot; in two lines or three if it is narrow."""
    options: dict[str, object] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "borderaxespad": 0.3}
    columns = len(handles) if width > NARROW else min(len(handles), 2)
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, **options)
