"""The figures of the scaling report: each function takes a View and returns a matplotlib Figure, or None without data.

They show what LayerCAM-AE's Fig. 15 (seconds per round by defense) and 16 (maps alone and with the autoencoder,
against the number of users) and FedGrad's Fig. 9 (server time by defense, and its split in section 6.1) show,
measured here, and what more nodes bring. No pyplot; colours of Okabe and Ito, and a label or a marker beside each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from raysim.composition.registry import defense_title
from raysim.formats import significant
from raysim.report.drawing import GRID, INK, PAPER, QUIET, WIDE, dressed
from raysim.studies.figure import COLOURS, MARKERS, REST
from raysim.studies.scaling.fit import shares, strong_scaling
from raysim.studies.scaling.read import Measured
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.scaling.view import ScalingView

LABEL_PT = 9.0

SPLIT_WIDTH = 1.6
"""Of the axes of `split`, in bars: the rest is for the seconds and the names that do not fit into their bar."""


CAPTIONS = {
    "runtime": "Seconds per round by defense",
    "growth": "Seconds per round against K",
    "split": "Share of each stage",
    "maps": "Maps alone, and with the autoencoder, against K",
    "nodes": "Speed-up against nodes",
    "moved": "Bytes moved between nodes by stage",
}
"""Kind of figure -> what it shows."""


def draw(view: ScalingView, figures: dict[str, tuple[str, Figure]]) -> dict[str, str]:
    """Add every figure there are data for to those of the page; kind -> its name there."""
    kinds: dict[str, Callable[[ScalingView], Figure | None]] = {
        "runtime": runtime,
        "growth": growth,
        "split": split,
        "maps": maps,
        "nodes": nodes,
        "moved": moved,
    }
    drawn = {}
    for kind, draw_kind in kinds.items():
        if (figure := draw_kind(view)) is not None:
            drawn[kind] = f"{kind}{view.slug}"
            figures[drawn[kind]] = (CAPTIONS[kind], figure)
    return drawn


def runtime(view: ScalingView) -> Figure:
    """Seconds per round of each defense at its largest K, slowest first, on the fewest and the most nodes."""
    counts = _ends(view.nodes)
    slow = {count: view.largest(count) for count in counts}
    seconds: dict[str, float] = {}
    for top in slow.values():
        for defense, whole in top.items():
            seconds[defense] = max(whole.median_s, seconds.get(defense, 0.0))
    order = sorted(seconds, key=lambda d: -seconds[d])
    bars = [(d, count, slow[count][d]) for d in order for count in counts if d in slow[count]]
    step = 1.0 + 0.45 * (len(counts) > 1)  # from one defense to the next
    figure, axes = _bar_axes(len(bars) + (step - 1.0) * len(order))
    at, ticks = -step, {}
    last = ""
    for defense, count, whole in bars:
        at += 1.0 if defense == last else step
        last = defense
        ticks[at] = view.label(whole) + (f", {_nodes(count)}" if len(view.nodes) > 1 else "")
        low, high = whole.quartiles_s
        colour = COLOURS[counts.index(count)]
        axes.barh(at, whole.median_s, height=0.8, color=colour)
        axes.hlines(at, low, high, color=INK, lw=1.6)
        axes.plot([low, high], [at, at], "|", color=INK, ms=7, mew=1.4)
        axes.annotate(
            f"{significant(whole.median_s)} s",
            (max(high, whole.median_s), at),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=LABEL_PT,
            color=INK,
        )
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.12 * max(max(whole.quartiles_s[1], whole.median_s) for _, _, whole in bars))
    axes.set_xlabel("seconds per round; line: first to third quartile")
    _title(axes, f"Seconds per round at {_where(view)}")
    return figure


def growth(view: ScalingView) -> Figure | None:
    """Seconds against K, log-log, a band from quartile to quartile; on the fewest and the most nodes."""
    if len(view.clients) < 2:
        return None
    panels = _ends(view.nodes)
    lines = view.lines()
    figure = Figure(figsize=(WIDE, max(4.4, 1.3 + 0.19 * len(lines))), layout="constrained")
    columns = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, count in zip(columns, panels, strict=True):
        ends = []
        for place, (defense, stage, label) in enumerate(lines):
            sizes = {s.clients: m for s, m in sorted(view.sizes(defense, stage).items()) if s.nodes == count}
            if not sizes:
                continue
            at, median = list(sizes), [m.median_s for m in sizes.values()]
            limit = defense == LIMITS
            colour = QUIET if limit else COLOURS[place % len(COLOURS)]
            marker = "" if limit else MARKERS[place % len(MARKERS)]
            axes.plot(at, median, color=colour, lw=1.6, ls="--" if limit else "-", marker=marker, ms=5)
            low, high = zip(*(m.quartiles_s for m in sizes.values()), strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
            ends.append((at[-1], median[-1], label, colour))
        _log_axes(axes, view.clients)
        _title(axes, f"{_nodes(count)}, d = {view.parameters:,}")
        axes.set_xlabel("clients K")
        _end_labels(axes, ends, view.clients[-1])
    columns[0].set_ylabel("seconds per round, median; band: quartiles")
    return figure


def split(view: ScalingView) -> Figure:
    """What part of each defense's seconds each of its stages takes, at the largest K."""
    bars = [(count, whole) for count in _ends(view.nodes) for whole in view.largest(count).values()]
    order = sorted(bars, key=lambda bar: (view.defenses.index(bar[1].defense), bar[0]))
    parts = [(count, whole, _shares(view, whole)) for count, whole in order]
    weight: dict[str, float] = {}
    for _, _, taken in parts:
        for stage, value in taken.items():
            weight[stage] = weight.get(stage, 0.0) + value
    coloured = sorted((s for s in weight if not s.startswith("(")), key=lambda s: -weight[s])[: len(COLOURS)]
    figure, axes = _bar_axes(1.15 * len(parts))
    for at, (_, whole, taken) in enumerate(parts):
        left, small = 0.0, []
        for stage, value in taken.items():
            colour = COLOURS[coloured.index(stage)] if stage in coloured else REST
            axes.barh(at, value, left=left, height=0.8, color=colour, edgecolor=PAPER, lw=0.8)
            text = f"{stage} {100 * value:.0f} %"
            if value > 0.014 * len(text) + 0.01:
                ink = INK if colour in (REST, "#56B4E9", "#E69F00", "#CC79A7") else PAPER
                axes.text(left + value / 2, at, text, ha="center", va="center", fontsize=8.5, color=ink)
            elif value >= 0.02:
                small.append((-value, text))
            left += value
        beside = ", ".join([f"{significant(whole.median_s)} s", *(text for _, text in sorted(small)[:3])])
        axes.text(1.01, at, beside, va="center", fontsize=8.5, color=INK)
    several = len(view.nodes) > 1
    names = [view.label(whole) + (f", {_nodes(count)}" if several else "") for count, whole, _ in parts]
    axes.set_yticks(range(len(parts)), names)
    axes.invert_yaxis()
    axes.set_xlim(0.0, SPLIT_WIDTH)
    axes.spines["bottom"].set_bounds(0.0, 1.0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("share of the seconds of a round", x=0.5 / SPLIT_WIDTH)
    _title(axes, f"Stages in the order they run, at {_where(view)}")
    return figure


def maps(view: ScalingView) -> Figure | None:
    """Heat maps alone and with the autoencoder against K, on the fewest nodes; a panel for each defense."""
    names = view.with_autoencoder()
    if not names or len(view.clients) < 2:
        return None
    count = view.nodes[0]
    figure = Figure(figsize=(WIDE, 3.9), layout="constrained")
    columns = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    for axes, defense in zip(columns, names, strict=True):
        pairs = {K: pair for K in view.clients if (pair := view.maps_seconds(defense, K, count)) is not None}
        curves = []
        for part, label, colour, marker in (
            (1, "with autoencoder", COLOURS[1], "s"),
            (0, "maps alone", COLOURS[0], "o"),
        ):
            low, middle, high = np.percentile([pair[part] for pair in pairs.values()], [25, 50, 75], axis=1)
            axes.plot(list(pairs), middle, color=colour, marker=marker, lw=1.6, ms=5, label=label)
            axes.fill_between(list(pairs), low, high, color=colour, alpha=0.18, lw=0)
            curves.append(middle)
        dressed(axes, grid=False)
        axes.yaxis.grid(color=GRID, lw=0.8)
        axes.set_ylim(0.0, None)
        _title(axes, f"{defense_title(defense)}, {_nodes(count)}, d = {view.parameters:,}", pad=24)
        axes.set_xlabel("clients K")
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2,
            borderaxespad=0.2,
            frameon=False,
            fontsize=LABEL_PT,
            labelcolor=INK,
        )
    columns[0].set_ylabel("seconds per round, median; band: quartiles")
    return figure


def nodes(view: ScalingView) -> Figure | None:
    """Speed-up against the number of nodes at the largest K, beside the ideal."""
    if len(view.nodes) < 2:
        return None
    lines = view.lines()
    figure = Figure(figsize=(WIDE * 0.72, max(4.4, 1.3 + 0.19 * len(lines))), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(view.nodes, np.array(view.nodes) / view.nodes[0], color=QUIET, ls=":", lw=1.4)
    ends = [(view.nodes[-1], view.nodes[-1] / view.nodes[0], "ideal", QUIET)]
    for place, (defense, stage, label) in enumerate(lines):
        found = [s for s in strong_scaling(view.sizes(defense, stage)) if s.base == view.nodes[0]]
        if not found:
            continue
        top = max(s.size.clients for s in found)
        curve = [s for s in found if s.size.clients == top]
        limit = defense == LIMITS
        colour = QUIET if limit else COLOURS[place % len(COLOURS)]
        marker = "" if limit else MARKERS[place % len(MARKERS)]
        at = np.array([view.nodes[0], *(s.size.nodes for s in curve)])
        middle = np.array([1.0, *(s.speed_up.value for s in curve)])
        low = np.array([1.0, *(s.speed_up.low for s in curve)])
        high = np.array([1.0, *(s.speed_up.high for s in curve)])
        axes.errorbar(
            at,
            middle,
            np.clip([middle - low, high - middle], 0, None),
            color=colour,
            marker=marker,
            ms=5,
            lw=1.6,
            ls="--" if limit else "-",
            capsize=3,
            elinewidth=1.0,
        )
        name = label if top == view.clients[-1] else f"{label} (K = {top})"
        ends.append((int(at[-1]), float(middle[-1]), name, colour))
    if len(ends) == 1:
        return None
    dressed(axes, grid=False)
    axes.yaxis.grid(color=GRID, lw=0.8)
    axes.set_xticks(view.nodes)
    axes.set_ylim(bottom=max(0.0, min(axes.get_ylim()[0], 0.9)))
    axes.set_xlabel("nodes")
    axes.set_ylabel(f"speed-up over {_nodes(view.nodes[0])}; bars: quartiles")
    _title(axes, f"Strong scaling at {_where(view)}")
    _end_labels(axes, ends, view.nodes[-1])
    return figure


def moved(view: ScalingView) -> Figure | None:
    """Bytes that stages brought from other nodes at the largest K, on the most nodes; those that moved any."""
    count = view.nodes[-1]
    bars: list[tuple[Measured, Measured]] = [
        (whole, entry)
        for whole in view.largest(count).values()
        for entry in view.stages(whole.defense, whole.size.clients, count)
        if np.median(entry.bytes_moved) > 0
    ]
    if not bars:
        return None
    figure, axes = _bar_axes(len(bars))
    size = [float(np.median(entry.bytes_moved)) / 1e6 for _, entry in bars]
    for at, ((whole, entry), value) in enumerate(zip(bars, size, strict=True)):
        axes.barh(at, value, height=0.7, color=COLOURS[view.defenses.index(whole.defense) % len(COLOURS)])
        part = 100e6 * value / entry.size.matrix_bytes
        text = f"{value:,.1f} MB, {part:.1f} % of the matrix"
        axes.annotate(
            text, (value, at), (6, 0), textcoords="offset points", va="center", fontsize=LABEL_PT, color=INK
        )
    axes.set_yticks(range(len(bars)), [f"{view.label(whole)}: {entry.stage}" for whole, entry in bars])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.4 * max(size))
    axes.set_xlabel("MB moved between nodes in a round")
    _title(axes, f"Bytes moved at {_where(view)}, {_nodes(count)}")
    return figure


def spread_out(values: Sequence[float], gap: float, top: float = 1.0) -> np.ndarray:
    """Positions [n] near the values, in their order, at least `gap` apart and, where they fit, within [0, top].

    The nearest such positions in the least-squares sense: an isotonic regression of values minus the gaps below.
    """
    from scipy.optimize import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(order))
    places = np.empty(len(order))
    room = max(top - gap * (len(order) - 1), 0.0)
    places[order] = np.clip(isotonic_regression(np.asarray(values)[order] - steps).x, 0.0, room) + steps
    return places


def _shares(view: ScalingView, whole: Measured) -> dict[str, float]:
    """The stages' parts of a defense's seconds, in the order they run; together 1."""
    stages = view.stages(whole.defense, whole.size.clients, whole.size.nodes)
    return {entry.stage: value for entry, value in zip(stages, shares(stages), strict=True)}


def _end_labels(axes: Axes, ends: Sequence[tuple[int, float, str, str]], right: int) -> None:
    """Name each line beside its last point (x, y, name, colour), moved apart, outside of the axes on the right."""
    figure = axes.figure
    figure.canvas.draw()  # the layout decides how high the axes are
    height = axes.get_window_extent().height / figure.dpi * 72
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [float(to_axes.transform((x, y))[1]) for x, y, _, _ in ends]
    places = spread_out(heights, 1.25 * LABEL_PT / height)
    edge = axes.get_xlim()[1]
    for (x, y, name, colour), place in zip(ends, places, strict=True):
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
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )
    axes.set_xlim(right=max(edge, right))


def _log_axes(axes: Axes, clients: Sequence[int]) -> None:
    dressed(axes, grid=False)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(color=GRID, lw=0.8)
    ticks = [clients[-1]]
    for K in reversed(clients):
        if math.log(ticks[0] / K) > 0.06 * math.log(clients[-1] / clients[0]):  # room for the numbers
            ticks.insert(0, K)
    axes.set_xticks(ticks, [str(K) for K in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _bar_axes(bars: float) -> tuple[Figure, Axes]:
    """Room for so many horizontal bars."""
    figure = Figure(figsize=(WIDE, 1.1 + 0.29 * bars), layout="constrained")
    axes = figure.add_subplot()
    dressed(axes, grid=False)
    axes.xaxis.grid(color=GRID, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.margins(y=0.01)
    return figure, axes


def _title(axes: Axes, text: str, pad: float = 8) -> None:
    axes.set_title(text, loc="left", fontsize=10, color=INK, pad=pad)


def _where(view: ScalingView) -> str:
    return f"K = {view.clients[-1]} clients, d = {view.parameters:,}"


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _ends(counts: Sequence[int]) -> list[int]:
    """The first and the last."""
    return sorted({counts[0], counts[-1]})
