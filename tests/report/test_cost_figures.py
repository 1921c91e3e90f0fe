"""What the figures of seconds draw, read back from their axes."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from raysim.report import cost_figures
from raysim.report.drawing import svg
from raysim.report.finished_run import read_finished_run
from raysim.report.stage_costs import Cost, StageCost, stage_costs

ROUNDS = np.arange(3)


def test_stage_bars_are_the_seconds_a_round(write_run):
    spans = read_finished_run(write_run(maps=None)).spans
    stages = stage_costs(spans)
    axes = cost_figures.stage_bars(stages).axes[0]
    widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert widths == [stage.cost.median_s for stage in stages]
    assert [label.get_text() for label in axes.get_yticklabels()] == [stage.stage for stage in stages]
    first = axes.patches[0]
    assert stages[0].stage == "train"
    assert to_hex(first.get_facecolor()) == cost_figures.OWNER_COLOURS["client"]


def bars(axes):
    """(bottom, top, colour) of every bar, in the order drawn."""
    return [
        (bar.get_y(), bar.get_y() + bar.get_height(), to_hex(bar.get_facecolor()))
        for bar in axes.patches
        if isinstance(bar, Rectangle)
    ]


def test_owners_stand_on_each_other_and_add_up():
    owners = {"client": np.array([1.0, 2.0, 3.0]), "defense": np.array([0.5, np.nan, 0.25])}
    axes = cost_figures.owner_stack(ROUNDS, owners).axes[0]
    client, defense = cost_figures.OWNER_COLOURS["client"], cost_figures.OWNER_COLOURS["defense"]
    assert bars(axes) == [
        (0.0, 1.0, client), (0.0, 2.0, client), (0.0, 3.0, client),
        (1.0, 1.5, defense), (2.0, 2.0, defense), (3.0, 3.25, defense),
    ]  # fmt: skip
    assert axes.get_ylim() == (0.0, 3.25)
    assert not list(axes.texts)


def test_a_far_longer_first_round_is_cut_and_its_length_written_at_it():
    axes = cost_figures.owner_stack(ROUNDS, {"engine": np.array([20.0, 2.0, 1.0])}).axes[0]
    assert axes.get_ylim() == (0.0, 2.5)
    assert [text.get_text() for text in axes.texts] == ["round 0: 20.0 s"]
    later = cost_figures.owner_stack(ROUNDS, {"engine": np.array([1.0, 20.0, 1.0])}).axes[0]
    assert later.get_ylim() == (0.0, 20.0)
    alone = cost_figures.owner_stack(ROUNDS[:1], {"engine": np.array([20.0])}).axes[0]
    assert alone.get_ylim() == (0.0, 20.0)


def test_owners_differ_in_colour_and_all_but_the_plain_ones_in_hatching():
    assert len(set(cost_figures.OWNER_COLOURS.values())) == 5
    hatched = [hatch for hatch in cost_figures.OWNER_HATCHES.values() if hatch]
    assert len(set(hatched)) == len(hatched) == 3


def test_names_of_stages_are_drawn_as_they_are_in_one_short_line():
    name = "$x <script>\n" + "y" * 90
    stage = StageCost(name, "defense", Cost(1.0, 1.0, 2, 2.0), *[0] * 9)
    figure = cost_figures.stage_bars([stage])
    (label,) = (text.get_text() for text in figure.axes[0].get_yticklabels())
    assert label == "$x <script>\ufffd" + "y" * 15 + "…"
    assert len(label) == cost_figures.LONGEST_NAME
    assert "<script" not in svg(figure)
