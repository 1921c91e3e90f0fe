"""What the figures draw, read back from their axes."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from raysim.report import figures
from raysim.report.figures import ABSENT, ACCEPTED, CAUGHT, CELLS, FALSE_ALARM, MISSED, UNJUDGED
from raysim.report.finished_run import HeatMaps, read_finished_run


def client_rows(*rows: tuple[int, int, bool, float]) -> dict[str, np.ndarray]:
    names = {"round": int, "client": int, "malicious": bool, "flagged": float}
    return {
        name: np.array([row[at] for row in rows], dtype=kind) for at, (name, kind) in enumerate(names.items())
    }


def strip_cells(figure: Figure) -> np.ndarray:
    mesh = figure.axes[0].collections[0].get_array()
    assert mesh is not None
    return np.asarray(mesh)


def frames(figure: Figure) -> int:
    return sum(isinstance(patch, Rectangle) for patch in figure.axes[0].patches)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_accuracy_curve_joins_the_evaluated_rounds(write_run):
    rounds = read_finished_run(write_run(rounds=5, maps=None)).rounds
    main, success, confidence = figures.accuracy_curve(rounds).axes[0].lines
    assert np.asarray(main.get_xdata()).tolist() == [0, 2, 4]
    np.testing.assert_array_equal(main.get_ydata(), rounds["main_accuracy"][::2])
    np.testing.assert_array_equal(success.get_ydata(), rounds["attack_success_rate"][::2])
    np.testing.assert_array_equal(confidence.get_ydata(), rounds["target_confidence"][::2])


def test_accuracy_curve_without_attack_has_one_line(write_run):
    rounds = read_finished_run(write_run(success=False, maps=None)).rounds
    assert [line.get_label() for line in figures.accuracy_curve(rounds).axes[0].lines] == ["main accuracy"]


def test_detection_rates_keep_gaps_and_say_when_undefined(write_run):
    rounds = read_finished_run(write_run(attackers=0, maps=None)).rounds
    recall, precision, fpr = figures.detection_rates(rounds).axes
    assert [text.get_text() for text in recall.texts] == ["undefined in every round"]
    np.testing.assert_array_equal(precision.lines[0].get_ydata(), rounds["precision"])
    assert fpr.get_title(loc="right") == f"mean {rounds['fpr'].mean():.3f}"


def test_classify():
    malicious = np.array([False, False, True, True, True, False])
    flagged = np.array([0.0, 1.0, 1.0, 0.0, np.nan, np.nan])
    expected = [ACCEPTED, FALSE_ALARM, CAUGHT, MISSED, UNJUDGED, UNJUDGED]
    assert figures.classify(malicious, flagged).tolist() == expected


def test_strip_puts_attackers_on_top_and_leaves_absent_cells():
    rows = [(3, 10, False, 0), (3, 20, True, 1), (4, 10, False, 1), (5, 20, True, 0), (5, 30, False, 0)]
    figure, left_out = figures.flag_strip(client_rows(*rows))
    expected = [[CAUGHT, ABSENT, MISSED], [ACCEPTED, FALSE_ALARM, ABSENT], [ABSENT, ABSENT, ACCEPTED]]
    assert strip_cells(figure).tolist() == expected
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["20", "10", "30"]
    assert left_out == ""
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [CELLS[kind][1] for kind in range(5)]


def test_strip_keeps_attackers_then_the_most_flagged(monkeypatch):
    monkeypatch.setattr(figures, "STRIP_ROWS", 3)
    rows = [
        (at, client, client == 4, float(client == 3 or (client == 1 and at == 0)))
        for at in (0, 1)
        for client in range(5)
    ]
    figure, left_out = figures.flag_strip(client_rows(*rows))
    assert strip_cells(figure).tolist() == [[MISSED] * 2, [FALSE_ALARM, ACCEPTED], [FALSE_ALARM] * 2]
    assert left_out == "3 of 5 clients are drawn: attackers, then the most flagged."


def heat_maps(count: int, reconstructed: bool = True) -> HeatMaps:
    maps = np.random.default_rng(0).random((count, 4, 6), dtype=np.float32)
    return HeatMaps(2, np.arange(count) + 10, maps, maps * np.float32(0.5) if reconstructed else None)


def test_grid_frames_the_flagged_and_names_the_attackers():
    # client 11 is flagged in another round, which must not show
    clients = client_rows(
        (2, 10, True, 1), (2, 11, False, 0), (1, 11, True, 1), (2, 12, False, 1), (2, 13, True, 0)
    )
    figure, left_out = figures.heat_map_grid(heat_maps(4), clients)
    assert frames(figure) == 2
    assert words(figure) == ["attacker 10", "client 11", "client 12", "attacker 13"]
    images = figure.axes[0].images
    assert len(images) == 8
    assert len({image.get_clim() for image in images}) == 1
    assert left_out == ""


def test_grid_without_reconstruction_draws_one_map_a_client():
    figure, _ = figures.heat_map_grid(heat_maps(3, reconstructed=False), client_rows((2, 10, False, np.nan)))
    assert len(figure.axes[0].images) == 3
    assert frames(figure) == 0


def test_grid_keeps_attackers_then_flagged(monkeypatch):
    monkeypatch.setattr(figures, "MAP_CLIENTS", 3)
    clients = client_rows(*((2, 10 + k, k == 4, float(k == 3)) for k in range(5)))
    figure, left_out = figures.heat_map_grid(heat_maps(5), clients)
    assert words(figure) == ["client 10", "client 13", "attacker 14"]
    assert left_out == "3 of 5 clients are drawn: attackers, then flagged ones."


@pytest.mark.parametrize("fill", [0.0, np.nan])
def test_grid_of_flat_maps_is_drawn(fill):
    maps = HeatMaps(0, np.array([5]), np.full((1, 3, 3), fill, dtype=np.float32), None)
    figure, _ = figures.heat_map_grid(maps, client_rows((0, 5, False, 0)))
    assert figure.axes[0].images[0].get_clim() == (0.0, 1.0)


def score_rows(*rows: tuple[int, bool, float]) -> dict[str, np.ndarray]:
    return {
        name: np.array([row[at] for row in rows], dtype=kind)
        for at, (name, kind) in enumerate({"round": int, "malicious": bool, "score": float}.items())
    }


def rounds_of(*thresholds: float) -> dict[str, np.ndarray]:
    return {"round": np.arange(len(thresholds)), "threshold": np.array(thresholds)}


def test_scores_stand_by_round_attackers_apart_in_place_colour_and_shape():
    rows = score_rows((0, False, 1.0), (0, True, 5.0), (1, False, 2.0), (1, True, np.nan), (1, False, np.inf))
    axes = figures.scores(rows, rounds_of(3.0, np.nan)).axes[0]
    benign, attackers = axes.collections
    np.testing.assert_allclose(np.asarray(benign.get_offsets()), [[-0.14, 1.0], [0.86, 2.0]])
    np.testing.assert_allclose(np.asarray(attackers.get_offsets()), [[0.14, 5.0]])
    shapes = {len(points.get_paths()[0].vertices) for points in (benign, attackers)}
    assert len(shapes) == 2, "circles and triangles"
    (line,) = axes.lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([-0.5, 0.5], [3.0, 3.0])
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["benign", "attacker", "threshold"]
    assert axes.get_ylabel() == "score"


def test_the_legend_of_scores_names_what_is_there_alone():
    legend = figures.scores(score_rows((0, False, 1.0)), rounds_of(np.nan)).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["benign"]


def test_scores_far_above_most_are_drawn_on_a_logarithmic_scale_unless_some_are_not_positive():
    far = [(0, False, 1.0), (0, False, 1.0), (0, True, 100.0)]
    assert figures.scores(score_rows(*far), rounds_of(3.0)).axes[0].get_ylabel() == "score (log scale)"
    far[0] = (0, False, 0.0)
    assert figures.scores(score_rows(*far), rounds_of(3.0)).axes[0].get_yscale() == "linear"


def test_many_scores_are_a_picture(monkeypatch):
    rows = score_rows((0, False, 1.0), (0, True, 2.0), (0, True, 2.5))
    drawn = figures.scores(rows, rounds_of(1.5)).axes[0].collections
    assert [points.get_rasterized() for points in drawn] == [False, False]
    monkeypatch.setattr(figures, "SCORE_POINTS", 2)
    drawn = figures.scores(rows, rounds_of(1.5)).axes[0].collections
    assert [points.get_rasterized() for points in drawn] == [True, True]
