"""The report's figures of seconds: by owner, round by round, and by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raysim.formats import seconds
from raysim.report.drawing import (
    AMBER,
    BLUE,
    GREY,
    GRID,
    INK,
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
from raysim.report.stage_costs import UNKNOWN, StageCost

OWNER_COLOURS = {"client": BLUE, "attack": RED, "defense": AMBER, "engine": GREY, UNKNOWN: QUIET}

OWNER_HATCHES = {"client": "", "attack": "////", "defense": "\\\\\\\\", "engine": "", UNKNOWN: "||||"}
"""So that owners are told apart without colours, too."""

TALL = 2.0
"""A first round more than this many times as long as the longest other one is cut, and its length written at it."""

LONGEST_NAME = 28
"""Letters of a stage's name that are drawn; the table has all."""


def owner_stack(
    rounds: NDArray[np.int64], owners: Mapping[str, NDArray[np.float64]], width: float = WIDE
) -> Figure:
    """Seconds of every round, those of one owner above the other's.

    rounds [R]; owners: owner -> seconds [R], NaN in rounds without any. A first round that is far longer than all others
    is cut, and its length written at it.
    """
    figure, axes = figure_of(width, 3.2)
    held = {owner: np.nan_to_num(values) for owner, values in owners.items()}
    totals = np.sum(list(held.values()), axis=0)
    fine = len(rounds) <= 80
    bottom = np.zeros(len(rounds))
    for owner, values in held.items():
        bars = axes.bar(rounds, values, bottom=bottom, width=0.8 if fine else 1.0, color=OWNER_COLOURS[owner])
        for bar in bars:
            bar.set(hatch=OWNER_HATCHES[owner] if fine else "", edgecolor=PAPER, linewidth=0.0)
        bottom = bottom + values
    dressed(axes)
    round_axis(axes, rounds)
    axes.set_ylabel("seconds")
    top = float(totals.max())
    if len(rounds) > 1 and top > TALL * totals[1:].max() > 0:
        top = float(totals[1:].max()) * 1.25
        label = f"round {rounds[0]}: {seconds(totals[0])}"
        at = axes.annotate(label, (rounds[0], top), (12, -2), textcoords="offset points", va="top")
        at.set(fontsize=9, color=INK, bbox={"boxstyle": "round,pad=0.2", "fc": PAPER, "ec": "none"})
    axes.set_ylim(0.0, top or 1.0)
    legend_above(axes, [_patch(owner) for owner in held], width)
    return figure


def stage_bars(stages: Sequence[StageCost], width: float = WIDE) -> Figure:
    """Seconds a round of each stage, coloured by owner; what ran in one round only is shown with that one."""
    figure, axes = figure_of(width, 0.95 + 0.36 * len(stages))
    at = np.arange(len(stages))
    walls = [shown_seconds(stage) for stage in stages]
    bars = axes.barh(at, walls, height=0.62, color=[OWNER_COLOURS[stage.owner] for stage in stages])
    for place, (stage, wall, bar) in enumerate(zip(stages, walls, bars, strict=True)):
        bar.set(hatch=OWNER_HATCHES[stage.owner], edgecolor=PAPER, linewidth=0.0)
        once = f"  {seconds(wall)}, in one round only"
        label = f"  {seconds(wall)}, first {seconds(stage.cost.first_s)}" if stage.cost.rounds > 1 else once
        axes.text(wall, place, label, va="center", fontsize=9, color=INK)
    axes.set_yticks(at, [drawable(stage.stage) for stage in stages])
    for name in axes.get_yticklabels():
        name.set_parse_math(False)
    axes.invert_yaxis()
    dressed(axes, grid=False)
    axes.xaxis.grid(color=GRID, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6 if width > NARROW else 3, steps=[1, 2, 5, 10]))
    axes.set_xlim(0.0, max(walls) * (1.28 if width > NARROW else 2.2) or 1.0)  # room for the longest label
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel("seconds a round (median; first round apart)")
    present = [owner for owner in OWNER_COLOURS if any(stage.owner == owner for stage in stages)]
    legend_above(axes, [_patch(owner) for owner in present], width)
    return figure


def shown_seconds(stage: StageCost) -> float:
    """The bar's length: the median, or the only round there was."""
    return stage.cost.median_s if stage.cost.rounds > 1 else stage.cost.first_s


def drawable(name: str) -> str:
    """A name as a figure has it: in one line, not too long, without what SVG cannot hold."""
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: LONGEST_NAME - 1]}…"


def _patch(owner: str) -> Patch:
    hatch = OWNER_HATCHES[owner]
    return Patch(facecolor=OWNER_COLOURS[owner], edgecolor=PAPER, linewidth=0.0, hatch=hatch, label=owner)
