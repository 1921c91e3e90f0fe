from __future__ import annotations

import numpy as np
import pytest

from defenses.rfa import RFA
from raysim.errors import ConfigError


def rfa_by_definition(rows, shares, max_iterations, tolerance, smoothing):
    """Smoothed Weiszfeld on the vectors themselves."""
    centre = shares @ rows
    objective = shares @ np.linalg.norm(rows - centre, axis=1)
    for _ in range(max_iterations):
        pulls = shares / np.maximum(smoothing, np.linalg.norm(rows - centre, axis=1))
        centre = pulls @ rows / pulls.sum()
        before, objective = objective, shares @ np.linalg.norm(rows - centre, axis=1)
        if abs(before - objective) <= tolerance * objective:
            break
    return centre


@pytest.mark.parametrize("max_iterations", [1, 4, 200])
def test_against_the_definition(apply_once, max_iterations):
    rows = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32)
    rows[7:] += 20
    examples = np.arange(1, 10)
    verdict = apply_once(RFA(max_iterations=max_iterations), rows, num_examples=examples)
    wide = rows.astype(np.float64)
    expected = rfa_by_definition(wide, examples / 45, max_iterations, 1e-6, 1e-6)
    np.testing.assert_allclose(verdict.aggregate, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(verdict.scores, np.linalg.norm(wide - expected, axis=1), rtol=1e-6)
    assert verdict.weights.sum() == pytest.approx(1)
    assert verdict.flagged is None


def test_one_step_by_hand(apply_once):
    # The mean of 0, 0 and 3 is 1: pulls 1/1, 1/1, 1/2, so that the next point is 1.5 / 2.5.
    verdict = apply_once(RFA(max_iterations=1), [[0.0], [0.0], [3.0]])
    np.testing.assert_allclose(verdict.weights, [0.4, 0.4, 0.2])
    assert verdict.aggregate == np.float32(0.6)


def test_one_step_from_zero_by_hand(apply_once):
    # Distances 1, 2 and 4 to zero: pulls 1, 1/2 and 1/4, over 7/4.
    verdict = apply_once(RFA(max_iterations=1, start="zero"), [[1.0], [-2.0], [4.0]])
    np.testing.assert_allclose(verdict.weights, [4 / 7, 2 / 7, 1 / 7])
    np.testing.assert_allclose(verdict.aggregate, [4 / 7], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_from_zero_against_byzfl(apply_once, byzfl, steps):
    rows = np.random.default_rng(3).standard_normal((10, 20)).astype(np.float32)
    rows[8:] *= 30
    rows[0] = 0
    expected = byzfl.GeometricMedian(nu=0.1, T=steps)(rows.astype(np.float64))
    rule = RFA(max_iterations=steps, tolerance=0.0, smoothing=0.1, start="zero")
    np.testing.assert_allclose(apply_once(rule, rows).aggregate, expected, rtol=1e-5, atol=1e-7)


def test_a_point_with_more_than_half_of_the_weight_is_returned(apply_once):
    rows = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32) * 10
    rows[[1, 4]] = rows[2]
    verdict = apply_once(RFA(max_iterations=1000, tolerance=0.0), rows)
    np.testing.assert_allclose(verdict.aggregate, rows[2], rtol=1e-6, atol=1e-6)
    heavy = apply_once(RFA(max_iterations=1000, tolerance=0.0), rows[:3], num_examples=[3, 1, 1])
    np.testing.assert_allclose(heavy.aggregate, rows[0], rtol=1e-6, atol=1e-6)


def test_against_byzfl_at_the_fixed_point(apply_once, byzfl):
    # ByzFL starts from zero: both must arrive at the same geometric median.
    rows = np.random.default_rng(2).standard_normal((10, 20)).astype(np.float32)
    rows[8:] *= 30
    expected = byzfl.GeometricMedian(nu=1e-6, T=500)(rows.astype(np.float64))
    verdict = apply_once(RFA(max_iterations=500, tolerance=0.0), rows)
    np.testing.assert_allclose(verdict.aggregate, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_iterations": 0},
        {"tolerance": -1.0},
        {"tolerance": float("inf")},
        {"smoothing": 0.0},
        {"smoothing": float("inf")},
        {"start": "median"},
    ],
)
def test_ranges(wrong):
    with pytest.raises(ConfigError) as caught:
        RFA(**wrong)
    assert caught.value.key in wrong
