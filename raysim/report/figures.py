"""The report's figures: each function takes columns and returns a matplotlib Figure, 10.4 inches wide.

No pyplot: nothing here touches matplotlib's current figure. Colours keep their contrast for colour-blind readers,
and no figure says anything by colour alone that a table or a label on the page does not also say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from raysim.formats import seconds
from raysim.report.finished_run import Columns, HeatMaps
from raysim.report.stage_costs import UNKNOWN, StageCost

WIDTH = 10.4
INK, QUIET, GRID = "#25303b", "#66717c", "#e4e6e3"
BLUE, GREEN, AMBER, RED = "#2b6197", "#3c7a5a", "#dfa032", "#b8372b"
OWNER_COLOURS = {"client": BLUE, "attack": RED, "defense": AMBER, "engine": "#9aa5ad", UNKNOWN: QUIET}

STRIP_ROWS = 150
"""At most this many clients in the strip: below about five pixels a row no longer reads."""

MAP_CLIENTS = 96
"""At most this many clients in the heat-map grid."""

ABSENT, ACCEPTED, FALSE_ALARM, CAUGHT, MISSED, UNJUDGED = range(6)
CELLS = {
    ABSENT: ("#ffffff", "not in the cohort"),
    ACCEPTED: ("#d3dae0", "benign, accepted"),
    FALSE_ALARM: (AMBER, "benign, flagged"),
    CAUGHT: (BLUE, "attacker, flagged"),
    MISSED: (RED, "attacker, accepted"),
    UNJUDGED: ("#f0efe9", "not judged"),
}


def accuracy_curve(rounds: Columns) -> Figure:
    """Main accuracy against the round, and attack success and target confidence where they were measured."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
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
    _style(axes, ylim=(0.0, 1.0))
    _round_axis(axes, rounds["round"])
    _legend_above(axes, axes.lines)
    return figure


def detection_rates(rounds: Columns) -> Figure:
    """Recall, precision and false-positive rate against the round, one panel each; undefined rounds are gaps."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    at = rounds["round"]
    names = (("recall", "recall", BLUE), ("precision", "precision", GREEN), ("fpr", "FPR", RED))
    for axes, (name, label, colour) in zip(panels, names, strict=True):
        values = rounds[name]
        axes.plot(at, values, color=colour, lw=1.2, marker="o", ms=3.5 if len(at) <= 60 else 2, clip_on=False)
        _style(axes, ylim=(0.0, 1.0))
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
    _round_axis(panels[-1], at)
    return figure


def flag_strip(clients: Columns) -> tuple[Figure, str]:
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
    figure = Figure(figsize=(WIDTH, 1.1 + row_height * count), layout="constrained")
    axes = figure.add_subplot()
    fine = count <= 60 and cells.shape[1] <= 120
    axes.pcolormesh(
        np.arange(first, last + 2) - 0.5,
        np.arange(count + 1) - 0.5,
        cells,
        cmap=ListedColormap([colour for colour, _ in CELLS.values()]),
        vmin=-0.5,
        vmax=len(CELLS) - 0.5,
        edgecolors="white" if fine else "none",
        linewidth=0.6 if fine else 0.0,
    )
    axes.invert_yaxis()
    if 0 < attackers < count:
        axes.axhline(attackers - 0.5, color=INK, lw=1.2)
    step = -(-count // 40)
    axes.set_yticks(np.arange(0, count, step), [str(client) for client in ids[::step]])
    _style(axes, grid=False)
    axes.tick_params(length=0, labelsize=8)
    _round_axis(axes, clients["round"])
    axes.set_ylabel("client")
    present = [CELLS[kind] for kind in np.unique(cells)]
    handles = [Patch(facecolor=colour, edgecolor="#b5bbc0", lw=0.5, label=label) for colour, label in present]
    _legend_above(axes, handles)
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


def heat_map_grid(maps: HeatMaps, clients: Columns) -> tuple[Figure, str]:
    """Each client's map and its reconstruction, flagged ones framed in red, attackers named as such.

    One colour scale for all. Also returns a sentence when clients are left out.
    """
    malicious, flagged = marks(maps, clients)
    kept = _keep(2 * malicious + flagged, MAP_CLIENTS)
    layers = [maps.maps] if maps.reconstructed is None else [maps.maps, maps.reconstructed]
    across = min(max(len(kept), 3), 6 if len(layers) == 2 else 10)
    down = -(-len(kept) // across)

    # One axes for all, in units of a map's width: a hundred axes would take seconds to lay out.
    aspect, between, gap, bar = maps.maps.shape[1] / maps.maps.shape[2], 0.04, 0.22, 0.7
    tile = len(layers) + between * (len(layers) - 1)
    wide = across * (tile + gap)
    unit = (WIDTH - bar) / wide  # inches
    header = 0.3 / unit
    high = down * (header + aspect + gap)
    figure = Figure(figsize=(WIDTH, high * unit))
    axes = figure.add_axes((0.0, 0.0, (WIDTH - bar) / WIDTH, 1.0))
    low, top = _range(maps.maps)
    for place, client in enumerate(kept):
        x, y = (place % across) * (tile + gap) + gap / 2, (place // across) * (header + aspect + gap) + header
        for index, layer in enumerate(layers):
            left = x + index * (1 + between)
            extent = (left, left + 1.0, y + aspect, y)
            axes.imshow(
                layer[client], extent=extent, cmap="viridis", vmin=low, vmax=top, interpolation="nearest"
            )
        axes.text(x, y - 0.07 / unit, f"client {maps.client_ids[client]}", fontsize=9, color=INK, va="bottom")
        if malicious[client]:
            box = {"boxstyle": "round,pad=0.25", "facecolor": INK, "edgecolor": "none"}
            label = axes.text(x + tile, y - 0.08 / unit, "attacker", ha="right", va="bottom", bbox=box)
            label.set(fontsize=8, fontweight="bold", color="white")
        if flagged[client]:
            edge = 0.03 / unit
            size = {"width": tile + 2 * edge, "height": aspect + 2 * edge}
            axes.add_patch(Rectangle((x - edge, y - edge), **size, fill=False, ec="#e0261c", lw=3, zorder=3))
    axes.set(xlim=(0.0, wide), ylim=(high, 0.0), aspect="equal")
    axes.set_axis_off()
    length = min(1.6, high * unit - 0.45)
    scale = figure.add_axes(
        (
            (WIDTH - bar + 0.12) / WIDTH,
            1.0 - (0.3 + length) / (high * unit),
            0.14 / WIDTH,
            length / (high * unit),
        )
    )
    figure.colorbar(axes.images[0], cax=scale).outline.set_visible(False)
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


def stage_bars(stages: Sequence[StageCost]) -> Figure:
    """Seconds a round of each stage, coloured by owner; what ran in one round only is shown with that one."""
    figure = Figure(figsize=(WIDTH, 0.95 + 0.36 * len(stages)), layout="constrained")
    axes = figure.add_subplot()
    at = np.arange(len(stages))
    walls = [shown_seconds(stage) for stage in stages]
    axes.barh(at, walls, height=0.62, color=[OWNER_COLOURS[stage.owner] for stage in stages])
    for place, (stage, wall) in enumerate(zip(stages, walls, strict=True)):
        once = f"  {seconds(wall)}, in one round only"
        label = f"  {seconds(wall)}, first {seconds(stage.cost.first_s)}" if stage.cost.rounds > 1 else once
        axes.text(wall, place, label, va="center", fontsize=9, color=INK)
    axes.set_yticks(at, [stage.stage for stage in stages])
    axes.invert_yaxis()
    _style(axes, grid=False)
    axes.xaxis.grid(color=GRID, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_xlim(0.0, max(walls) * 1.28 or 1.0)  # room for the longest label
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel("seconds a round (median; first round apart)")
    present = [owner for owner in OWNER_COLOURS if any(stage.owner == owner for stage in stages)]
    handles = [Patch(facecolor=OWNER_COLOURS[owner], label=owner) for owner in present]
    _legend_above(axes, handles)
    return figure


def shown_seconds(stage: StageCost) -> float:
    """The bar's length: the median, or the only round there was."""
    return stage.cost.median_s if stage.cost.rounds > 1 else stage.cost.first_s


def _range(maps: NDArray[np.float32]) -> tuple[float, float]:
    finite = maps[np.isfinite(maps)]
    if finite.size == 0:
        return 0.0, 1.0
    low, top = float(finite.min()), float(finite.max())
    return (low, top) if top > low else (low, low + 1.0)


def _keep(priority: NDArray[np.integer], limit: int) -> NDArray[np.intp]:
    """The indices of the `limit` rows of highest priority (equal ones: the first), in row order."""
    return np.sort(np.argsort(-priority, kind="stable")[:limit])


def _round_axis(axes: Axes, rounds: NDArray[np.int64]) -> None:
    axes.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlabel("round")


def _legend_above(axes: Axes, handles: Sequence[Artist]) -> None:
    options: dict[str, Any] = {"frameon": False, "fontsize": 9, "labelcolor": INK, "borderaxespad": 0.3}
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(handles), **options)


def _style(axes: Axes, *, ylim: tuple[float, float] | None = None, grid: bool = True) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#aab1b6")
    axes.tick_params(colors=QUIET, labelsize=9, length=3)
    axes.xaxis.label.set(color=QUIET, fontsize=9)
    axes.yaxis.label.set(color=QUIET, fontsize=9)
    if grid:
        axes.yaxis.grid(color=GRID, lw=0.8)
        axes.tick_params(axis="y", length=0)
    if ylim is not None:
        axes.set_ylim(*ylim)
    axes.set_axisbelow(True)
