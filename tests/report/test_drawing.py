"""How figures get onto the page: SVG that turns dark, whole, and the same every time."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ElementTree

import numpy as np

from raysim.report import cost_figures, figures
from raysim.report.drawing import DARK, INK, NARROW, WIDE, data_uri, figure_of, svg
from raysim.report.finished_run import read_finished_run
from raysim.report.stage_costs import owner_seconds, recorded_rounds, stage_costs


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_letters_and_marks_show_on_light_pages_and_dark_ones():
    from raysim.report import drawing as d

    panels = (d.PAPER, DARK[d.PAPER])
    for colour, least in (
        (d.INK, 7.0),
        (d.QUIET, 4.5),
        *((c, 2.1) for c in (d.BLUE, d.GREEN, d.AMBER, d.RED, d.GREY)),
    ):
        assert contrast(colour, panels[0]) >= least
        assert contrast(DARK[colour], panels[1]) >= least
    for colour in (figures.PICTURE_BLUE, figures.PICTURE_RED):
        assert all(contrast(colour, panel) >= 3 for panel in panels)


def test_every_colour_of_a_figure_has_a_dark_one(write_run):
    run = read_finished_run(write_run(rounds=3, maps=None))
    drawn = [
        figures.accuracy_curve(run.rounds),
        figures.detection_rates(run.rounds),
        figures.scores(run.clients, run.rounds),
        cost_figures.stage_bars(stage_costs(run.spans)),
        cost_figures.owner_stack(recorded_rounds(run.spans), owner_seconds(run.spans), NARROW),
    ]
    for figure in drawn:
        text = svg(figure)
        colours = set(re.findall(r"(?:fill|stroke)(?:: |=\")(#[0-9a-f]{6})", text))
        assert INK in colours
        assert colours <= DARK.keys()


def test_the_dark_colours_stand_in_the_picture_itself():
    figure, axes = figure_of(WIDE, 2.0)
    axes.plot([0, 1], [0, 1], color=INK)
    text = svg(figure)
    assert ElementTree.fromstring(text).tag.endswith("svg")
    (style,) = re.findall(r"<style>(@media \(prefers-color-scheme: dark\).*?)</style>", text)
    assert f'[style*="stroke: {INK}"],[stroke="{INK}"]{{stroke:{DARK[INK]}!important}}' in style
    assert f'[style*="fill: {INK}"],[fill="{INK}"]{{fill:{DARK[INK]}!important}}' in style
    assert svg(figure) == text
    head, _, data = data_uri(figure).partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data).decode() == text


def test_a_narrow_figure_has_letters_of_the_same_size():
    sizes = []
    for width in (WIDE, NARROW):
        figure, axes = figure_of(width, 2.0)
        axes.set_xlabel("round")
        assert tuple(figure.get_size_inches()) == (width, 2.0)
        sizes.append(axes.xaxis.label.get_fontsize())
    assert sizes[0] == sizes[1]
