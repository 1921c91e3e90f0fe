"""The figure of a round's stages against the number of clients."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from raysim.report.drawing import GRID, INK, QUIET, WIDE
from raysim.studies.figure import COLOURS
from raysim.studies.scaling.figures import REST
from raysim.studies.scaling.read import Measured
from raysim.studies.scaling.view import ScalingView

LEAST_SHARE = 0.01
"""Stages below this share of every bar are drawn together."""

OTHERS = "all others"


def stacked(view: ScalingView, variant: str) -> Figure:
    """Median seconds of each stage, one on the other, a bar for each K; one panel for each number of nodes.

    The heights of bars are sums of the stages' medians. variant: how clients sit in actors.
    """
    bars: dict[int, dict[int, list[Measured]]] = {}
    for nodes in view.nodes:
        at = {clients: view.stages(variant, clients, nodes) for clients in view.clients}
        if any(at.values()):
            bars[nodes] = {clients: found for clients, found in at.items() if found}
    stages = large_stages([stages for found in bars.values() for stages in found.values()])
    colours = dict(zip(stages, COLOURS, strict=False))
    figure = Figure(figsize=(WIDE, 4.2), layout="constrained")
    panels = figure.subplots(1, len(bars), sharey=True, squeeze=False)[0]
    for axes, (nodes, found) in zip(panels, bars.items(), strict=True):
        bottom = np.zeros(len(found))
        for name in [*stages, OTHERS]:
            heights = np.array([_seconds(of_bar, name, stages) for of_bar in found.values()])
            if not heights.any():
                continue
            axes.bar(
                range(len(found)), heights, 0.7, bottom, color=colours.get(name, REST), label=name, ec="white"
            )
            bottom += heights
        axes.set_xticks(range(len(found)), [str(K) for K in found])
        axes.set_xlabel("clients K")
        title = f"{nodes} node{'s' * (nodes > 1)}, {variant}"
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(colors=QUIET, labelsize=9, length=0)
        axes.yaxis.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("seconds a round, medians of stages")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK
    )
    return figure


def large_stages(bars: list[list[Measured]]) -> list[str]:
    """The stages that are drawn apart, in the order they run: of at least LEAST_SHARE of a bar, seven at most."""
    largest: dict[str, float] = {}
    for bar in bars:
        whole = sum(entry.median_s for entry in bar) or 1.0
        for entry in bar:
            largest[entry.stage] = max(largest.get(entry.stage, 0.0), entry.median_s / whole)
    kept = sorted((s for s in largest if largest[s] >= LEAST_SHARE), key=lambda s: -largest[s])[
        : len(COLOURS)
    ]
    return [stage for stage in largest if stage in kept]


def _seconds(bar: list[Measured], name: str, apart: list[str]) -> float:
    """Of one stage, or of all that are not drawn apart."""
    return sum(e.median_s for e in bar if e.stage == name or (name == OTHERS and e.stage not in apart))
