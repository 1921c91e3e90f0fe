"""The report's figures of what was learned and what was caught: each function takes columns and a width in inches."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from raysim.report.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LINE,
    NARROW,
    PAPER,
    QUIET,
    RED,
    WIDE,
    dressed,
    figure_of,
    legend_above,
    round_axis,
)
from raysim.report.finished_run import Columns, HeatMaps

STRIP_ROWS = 150
"""At most this many clients in the strip: below about five pixels a row no longer reads."""

MAP_CLIENTS = 96
"""At most this many clients in the heat-map grid."""

FAR = 30
"""Scores above 0 are drawn on a logarithmic scale if the highest is more than this many times the median."""

SCORE_POINTS = 4000
"""More scores than these are drawn as a picture of small faint points instead of as shapes."""

PICTURE_BLUE, PICTURE_RED = "#3f7fbf", "#c8473a"
"""In pictures of points and cells, which do not turn dark: they show on light pages and on dark ones."""

ABSENT, ACCEPTED, FALSE_ALARM, CAUGHT, MISSED, UNJUDGED = range(6)
CELLS = {
    ABSENT: (to_rgba(GREY, 0.0), "not in the cohort"),
    ACCEPTED: (to_rgba(GREY, 0.38), "benign, accepted"),
    FALSE_ALARM: (to_rgba("#dd9f35"), "benign, flagged"),
    CAUGHT: (to_rgba(PICTURE_BLUE), "attacker, flagged"),
    MISSED: (to_rgba(PICTURE_RED), "attacker, accepted"),
    UNJUDGED: (to_rgba(GREY, 0.14), "not judged"),
}
"""Kind of cell -> (its colour, the same on light pages and dark ones, its meaning)."""


def accuracy_curve(rounds: Columns, width: float = WIDE) -> Figure:
    """Main accuracy against the round, and attack success and target confidence where they were measured."""
    figure, axes = figure_of(width, 3.6 if width > NARROW else 3.0)
    for name, label, colour, marker, dashes in (
        ("main_accuracy", "main accuracy", BLUE, "o", "-"),
        ("attack_success_rate", "attack success", RED, "s", "-"),
        ("target_confidence", "target confidence", RED, "d", ":"),
    ):
        known = ~np.isnan(rounds[name])
        if known.any():
            (line,) = axes.plot(rounds["round"][known], rounds[name][known], label=label, clip_on=False)
            line.set(color=colour, ls=dashes, lw=1.8, marker=marker, ms=4 if known.sum() <= 40 else 0)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1.0, decimals=0))
    dressed(axes, ylim=(0.0, 1.0))
    round_axis(axes, rounds["round"])
    legend_above(axes, axes.lines, width)
    return figure


def detection_rates(rounds: Columns, width: float = WIDE) -> Figure:
    """Recall, precision and false-positive rate against the round, one panel each; undefined rounds are gaps."""
    figure = Figure(figsize=(width, 4.6), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    at = rounds["round"]
    names = (("recall", "recall", BLUE), ("precision", "precision", GREEN), ("fpr", "FPR", RED))
    for axes, (name, label, colour) in zip(panels, names, strict=True):
        values = rounds[name]
        axes.plot(at, values, color=colour, lw=1.2, marker="o", ms=3.5 if len(at) <= 60 else 2, clip_on=False)
        dressed(axes, ylim=(0.0, 1.0))
        axes.set_yticks([0.0, 0.5, 1.0])
        axes.set_title(label, loc="left", fontsize=10, color=INK, pad=6)
        if np.isnan(values).all():
            axes.text(
                0.5, 0.5, "undefined in every round", transform=axes.transAxes, ha="center", color=QUIET
            )
        else:
            mean = np.nanmean(values)
            axes.axhline(mean, color=colour, lw=1, ls=(0, (2, 3)), alpha=0.8)
            axes.set_title(f"mean {mean:.3f}", loc="right", fontsize=9, color=QUIET, pad=6)
    round_axis(panels[-1], at)
    return figure


def scores(clients: Columns, rounds: Columns, width: float = WIDE) -> Figure:
    """Every client's score by round, attackers as triangles beside benign circles, and the threshold as a line.

    Scores that are not finite are not drawn. The scale is logarithmic where all are above 0 and some are far above most.
    """
    figure, axes = figure_of(width, 4.2 if width > NARROW else 3.6)
    known = np.isfinite(clients["score"])
    values, attacker = clients["score"][known], clients["malicious"][known]
    crowded = len(values) > SCORE_POINTS
    blue, red = (PICTURE_BLUE, PICTURE_RED) if crowded else (BLUE, RED)
    for kind, colour, marker, size, aside in ((False, blue, "o", 15, -0.14), (True, red, "^", 26, 0.14)):
        here = attacker == kind
        at = clients["round"][known][here] + aside * (1.5 if crowded else 1.0)
        points = axes.scatter(at, values[here], size / 3 if crowded else size, marker=marker)
        # An outline for the many, a filled shape for the few.
        points.set(facecolor=colour if kind or crowded else "none", edgecolor="none" if crowded else colour)
        points.set(linewidth=1.0, clip_on=False, alpha=0.7 if crowded else None, rasterized=crowded)
    limit = rounds["threshold"]
    for at, threshold in zip(rounds["round"][np.isfinite(limit)], limit[np.isfinite(limit)], strict=True):
        axes.plot([at - 0.5, at + 0.5], [threshold, threshold], color=INK, lw=1.4)
    drawn = np.concatenate([values, limit[np.isfinite(limit)]])
    if drawn.min(initial=np.inf) > 0 and drawn.max() > FAR * np.median(drawn):
        axes.set_yscale("log")
    dressed(axes)
    round_axis(axes, rounds["round"])
    axes.set_ylabel("score (log scale)" if axes.get_yscale() == "log" else "score")
    handles = [
        Line2D([], [], color=BLUE, marker="o", mfc="none", ms=4, ls="", label="benign"),
        Line2D([], [], color=RED, marker="^", ms=5, ls="", label="attacker"),
        Line2D([], [], color=INK, lw=1.4, label="threshold"),
    ]
    shown = (not attacker.all(), bool(attacker.any()), bool(np.isfinite(limit).any()))
    legend_above(axes, [handle for handle, here in zip(handles, shown, strict=True) if here])
    return figure


def flag_strip(clients: Columns, width: float = WIDE) -> tuple[Figure, str]:
    """Clients down, rounds across: who was flagged when. Also returns a sentence when clients are left out."""
    ids, row = np.unique(clients["client"], return_inverse=True)
    first, last = int(clients["round"].min()), int(clients["round"].max())
    cells = np.full((len(ids), last - first + 1), ABSENT)
    cells[row, clients["round"] - first] = classify(clients["malicious"], clients["flagged"])
    attacker = np.isin(ids, clients["client"][clients["malicious"]])

    times_flagged = np.isin(cells, (FALSE_ALARM, CAUGHT)).sum(axis=1)
    kept = _keep(np.where(attacker, cells.shape[1] + 1, times_flagged), STRIP_ROWS)
    order = kept[np.argsort(~attacker[kept], kind="stable")]  # attackers on top, each group in id order
    ids, cells, attackers = ids[order], cells[order], int(attacker[order].sum())

    count = len(ids)
    row_height = 0.17 if count <= 40 else max(0.06, 6.8 / count)
    figure, axes = figure_of(width, 1.1 + row_height * count)
    mesh = axes.pcolormesh(
        np.arange(first, last + 2) - 0.5,
        np.arange(count + 1) - 0.5,
        cells,
        cmap=ListedColormap([colour for colour, _ in CELLS.values()]),
        vmin=-0.5,
        vmax=len(CELLS) - 0.5,
    )
    mesh.set_rasterized(True)
    axes.invert_yaxis()
    if count <= 60 and cells.shape[1] <= 120 * width / WIDE:
        across, down = np.arange(first, last + 2) - 0.5, np.arange(count + 1) - 0.5
        axes.vlines(across, -0.5, count - 0.5, color=PAPER, lw=0.8)
        axes.hlines(down, first - 0.5, last + 0.5, color=PAPER, lw=0.8)
    if 0 < attackers < count:
        axes.axhline(attackers - 0.5, color=INK, lw=1.2)
    step = -(-count // 40)
    axes.set_yticks(np.arange(0, count, step), [str(client) for client in ids[::step]])
    dressed(axes, grid=False)
    axes.tick_params(length=0, labelsize=8)
    round_axis(axes, clients["round"])
    axes.set_ylabel("client")
    present = [CELLS[kind] for kind in np.unique(cells)]
    handles = [Patch(facecolor=colour, edgecolor=LINE, lw=0.5, label=label) for colour, label in present]
    legend_above(axes, handles, width)
    total = len(attacker)
    left_out = (
        "" if count == total else f"{count} of {total} clients are drawn: attackers, then the most flagged."
    )
    return figure, left_out


def classify(malicious: NDArray[np.bool_], flagged: NDArray[np.float64]) -> NDArray[np.int64]:
    """The strip's cell of each row: malicious bool [n]; flagged [n], 1, 0 or NaN."""
    positive = flagged == 1
    kinds = np.where(malicious, np.where(positive, CAUGHT, MISSED), np.where(positive, FALSE_ALARM, ACCEPTED))
    return np.where(np.isnan(flagged), UNJUDGED, kinds)


def heat_map_grid(maps: HeatMaps, clients: Columns, width: float = WIDE) -> tuple[Figure, str]:
    """Each client's map and its reconstruction, flagged ones framed in red, attackers named as such in a box.

    One colour scale for all. Also returns a sentence when clients are left out.
    """
    malicious, flagged = marks(maps, clients)
    kept = _keep(2 * malicious + flagged, MAP_CLIENTS)
    layers = [maps.maps] if maps.reconstructed is None else [maps.maps, maps.reconstructed]
    most = (6, 10) if width > NARROW else (2, 4)
    across = min(max(len(kept), most[0] // 2), most[len(layers) == 1])
    down = -(-len(kept) // across)

    # One axes for all, in units of a map's width: a hundred axes would take seconds to lay out.
    aspect, between, gap, bar = maps.maps.shape[1] / maps.maps.shape[2], 0.04, 0.22, 0.7
    tile = len(layers) + between * (len(layers) - 1)
    wide = across * (tile + gap)
    unit = (width - bar) / wide  # inches
    header = 0.3 / unit
    high = down * (header + aspect + gap)
    figure = Figure(figsize=(width, high * unit))
    axes = figure.add_axes((0.0, 0.0, (width - bar) / width, 1.0))
    low, top = _range(maps.maps)
    for place, client in enumerate(kept):
        x, y = (place % across) * (tile + gap) + gap / 2, (place // across) * (header + aspect + gap) + header
        for index, layer in enumerate(layers):
            left = x + index * (1 + between)
            extent = (left, left + 1.0, y + aspect, y)
            axes.imshow(
                layer[client], extent=extent, cmap="viridis", vmin=low, vmax=top, interpolation="nearest"
            )
        kind = "attacker" if malicious[client] else "client"
        label = axes.text(x, y - 0.07 / unit, f"{kind} {maps.client_ids[client]}", fontsize=9, va="bottom")
        label.set_color(INK)
        if malicious[client]:
            box = {"boxstyle": "round,pad=0.25", "facecolor": INK, "edgecolor": "none"}
            label.set(x=x + 0.03 / unit, fontweight="bold", fontsize=8, color=PAPER, bbox=box)
        if flagged[client]:
            edge = 0.03 / unit
            size = {"width": tile + 2 * edge, "height": aspect + 2 * edge}
            axes.add_patch(Rectangle((x - edge, y - edge), **size, fill=False, ec=RED, lw=3, zorder=3))
    axes.set(xlim=(0.0, wide), ylim=(high, 0.0), aspect="equal")
    axes.set_axis_off()
    length = min(1.6, high * unit - 0.45)
    scale = figure.add_axes(
        (
            (width - bar + 0.12) / width,
            1.0 - (0.3 + length) / (high * unit),
            0.14 / width,
            length / (high * unit),
        )
    )
    colours = figure.colorbar(axes.images[0], cax=scale)
    colours.outline.set_visible(False)
    if colours.solids is not None:
        colours.solids.set_rasterized(True)
    scale.tick_params(labelsize=8, colors=QUIET, length=2)
    total = len(maps.client_ids)
    left_out = (
        ""
        if len(kept) == total
        else f"{len(kept)} of {total} clients are drawn: attackers, then flagged ones."
    )
    return figure, left_out


def marks(maps: HeatMaps, clients: Columns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the clients with a map were malicious, and which were flagged, in the maps' round: bool [K] each."""
    here = clients["round"] == maps.round
    malicious = np.isin(maps.client_ids, clients["client"][here & clients["malicious"]])
    flagged = np.isin(maps.client_ids, clients["client"][here & (clients["flagged"] == 1)])
    return malicious, flagged


def _range(maps: NDArray[np.float32]) -> tuple[float, float]:
    finite = maps[np.isfinite(maps)]
    if finite.size == 0:
        return 0.0, 1.0
    low, top = float(finite.min()), float(finite.max())
    return (low, top) if top > low else (low, low + 1.0)


def _keep(priority: NDArray[np.integer], limit: int) -> NDArray[np.intp]:
    """The indices of the `limit` rows of highest priority (equal ones: the first), in row order."""
    return np.sort(np.argsort(-priority, kind="stable")[:limit])
