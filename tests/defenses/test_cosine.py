"""Cosine similarities, the transitive estimate, and how long a population takes to be linked."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.cosine import (
    cosine_similarities,
    cosines_from_gram,
    coverage_rounds,
    theorem_1_rounds,
    transitive_interval,
    transitive_similarities,
)
from raysim.errors import ConfigError

VECTORS = np.array([[3.0, 4.0], [4.0, 3.0], [0.0, 0.0], [-3.0, -4.0]])
COSINES = np.array([[1, 0.96, 0, -1], [0.96, 1, 0, -0.96], [0, 0, 0, 0], [-1, -0.96, 0, 1]])


@pytest.mark.parametrize("method", ["pair", "batch", "matrix"])
def test_cosines_by_hand(method: str) -> None:
    np.testing.assert_allclose(cosine_similarities(VECTORS, method), COSINES, atol=1e-15)  # type: ignore[arg-type]


def test_the_ways_to_compute_them_agree() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 10)).astype(np.float32)
    expected = cosine_similarities(vectors)
    for method in ("pair", "batch"):
        np.testing.assert_allclose(cosine_similarities(vectors, method), expected, atol=1e-14)


def test_cosines_from_a_gram_matrix() -> None:
    np.testing.assert_allclose(cosines_from_gram(VECTORS @ VECTORS.T), COSINES, atol=1e-15)


def test_the_interval_holds_the_true_cosine_and_is_tight_in_the_plane() -> None:
    units = np.random.default_rng(0).normal(size=(60, 5))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for i, j, z in zip(units[:20], units[20:40], units[40:], strict=True):
        low, high = transitive_interval(i @ z, z @ j)
        assert low - 1e-12 <= i @ j <= high + 1e-12
    # in the plane the angle i-j is the sum or the difference of the two others: 60 and 30 degrees
    low, high = transitive_interval(0.5, np.sqrt(3) / 2)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert high == pytest.approx(np.sqrt(3) / 2)


def test_transitive_estimates_against_the_definition() -> None:
    draw = np.random.default_rng(1)
    similarities = draw.uniform(-0.95, 0.95, (5, 8))
    known = draw.random((5, 8)) < 0.5
    known[0], known[1] = [True] * 4 + [False] * 4, [False] * 4 + [True] * 4  # these two share nobody
    estimate, shared = transitive_similarities(similarities, known)
    for i in range(5):
        for j in range(5):
            both = np.flatnonzero(known[i] & known[j])
            assert shared[i, j] == bool(len(both))
            intervals = [transitive_interval(similarities[i, z], similarities[j, z]) for z in both]
            weights = [1 / (high - low) for low, high in intervals]
            middles = [(high + low) / 2 for low, high in intervals]
            expected = np.average(middles, weights=weights) if len(both) else 0.0
            assert estimate[i, j] == pytest.approx(expected, abs=1e-12)


def test_a_shared_twin_decides_the_estimate() -> None:
    # client 0 is z's twin, so its cosine with client 1 is z's, whatever the other shared client says
    similarities = np.array([[1.0, 0.1], [0.3, -0.8]])
    estimate, _ = transitive_similarities(similarities, np.ones((2, 2), bool))
    assert estimate[0, 1] == pytest.approx(0.3, abs=1e-3)


def test_published_values_of_the_coverage_recursion() -> None:
    assert coverage_rounds(100, 20) == pytest.approx(23.9, abs=0.05)
    assert coverage_rounds(100, 10) == pytest.approx(49.9, abs=0.05)
    assert theorem_1_rounds(100, 20) == pytest.approx(10.3, abs=0.05)


def test_coverage_by_hand_and_by_drawing() -> None:
    assert coverage_rounds(7, 7) == 1
    assert coverage_rounds(3, 1) == pytest.approx(1 + 3 / 2 + 3)  # collecting three coupons
    draw, rounds = np.random.default_rng(0), []
    for _ in range(2000):
        seen, count = np.zeros(12, bool), 0
        while not seen.all():
            seen[draw.choice(12, 4, replace=False)] = True
            count += 1
        rounds.append(count)
    assert coverage_rounds(12, 4) == pytest.approx(np.mean(rounds), abs=0.2)


@pytest.mark.parametrize("function", [coverage_rounds, theorem_1_rounds])
@pytest.mark.parametrize(("cohort", "nearest"), [(0, 1), (6, 5)])
def test_impossible_cohorts_are_refused(function, cohort: int, nearest: int) -> None:
    with pytest.raises(ConfigError) as caught:
        function(5, cohort)
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("cohort", cohort, nearest)
