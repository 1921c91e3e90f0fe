from __future__ import annotations

import numpy as np
import pytest

from defenses.centered_clipping import CenteredClipping
from raysim.errors import ConfigError
from tests.defenses.conftest import build_context, build_updates

ROWS = [[3.0, 4.0], [0.0, 1.0], [-12.0, 9.0]]


def rounds(defense: CenteredClipping, *matrices):
    """The verdicts of one round after the other."""
    verdicts, state = [], None
    for matrix in matrices:
        updates = build_updates(matrix)
        context = build_context(updates)
        verdict, state = defense.apply(defense.init(context) if state is None else state, updates, context)
        verdicts.append(verdict)
    return verdicts


def by_definition(rows: np.ndarray, centre: np.ndarray, radius: float, iterations: int) -> np.ndarray:
    """v + the mean of the clipped differences, row by row."""
    for _ in range(iterations):
        moves = [(row - centre) * min(1.0, radius / np.linalg.norm(row - centre)) for row in rows]
        centre = centre + np.mean(moves, axis=0)
    return centre


def test_by_hand():
    # Norms 5, 1 and 15 clipped to 5: (3, 4), (0, 1) and (-4, 3), of which the mean is (-1/3, 8/3).
    (verdict,) = rounds(CenteredClipping(radius=5), ROWS)
    np.testing.assert_allclose(verdict.aggregate, [-1 / 3, 8 / 3], rtol=1e-6)
    np.testing.assert_allclose(verdict.weights, [1 / 3, 1 / 3, 1 / 9])
    assert verdict.scores.tolist() == [5, 1, 15]
    assert verdict.flagged is None


def test_the_median_distance_is_the_radius_of_scale_free_clipping():
    default, fixed = rounds(CenteredClipping(), ROWS), rounds(CenteredClipping(radius=5), ROWS)
    assert default[0].aggregate.tobytes() == fixed[0].aggregate.tobytes()


def test_the_next_round_starts_from_the_last_aggregate():
    first, second = rounds(CenteredClipping(radius=5), ROWS, [[10.0, 0.0]])
    # The difference from (-1/3, 8/3) to (10, 0) is (31/3, -8/3), clipped to length 5.
    move = np.array([31 / 3, -8 / 3])
    expected = first.aggregate + move * 5 / np.linalg.norm(move)
    np.testing.assert_allclose(second.aggregate, expected, rtol=1e-6)
    np.testing.assert_allclose(second.weights, 5 / np.linalg.norm(move))


def test_several_steps_against_the_definition_and_weights_that_make_the_aggregate():
    rows = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    later = rows[::-1] * np.float32(1.5)
    first, second = rounds(CenteredClipping(radius=2, iterations=4), rows, later)
    expected = by_definition(rows.astype(np.float64), np.zeros(9), 2, 4)
    np.testing.assert_allclose(first.aggregate, expected, rtol=1e-6)
    expected = by_definition(later.astype(np.float64), first.aggregate.astype(np.float64), 2, 4)
    np.testing.assert_allclose(second.aggregate, expected, rtol=1e-6)
    made = (1 - second.weights.sum()) * first.aggregate + second.weights @ later
    np.testing.assert_allclose(second.aggregate, made, rtol=1e-5, atol=1e-7)


def test_against_byzfl_over_rounds(byzfl):
    peer = byzfl.CenteredClipping(L=3, tau=4.0)
    draw = np.random.default_rng(1)
    matrices = [draw.standard_normal((7, 30)).astype(np.float32) for _ in range(3)]
    for verdict, matrix in zip(
        rounds(CenteredClipping(radius=4, iterations=3), *matrices), matrices, strict=True
    ):
        np.testing.assert_allclose(verdict.aggregate, peer(matrix.astype(np.float64)), rtol=1e-5, atol=1e-7)


def test_refuses_a_radius_of_zero():
    with pytest.raises(ConfigError, match="radius: must be above 0"):
        CenteredClipping(radius=0)
