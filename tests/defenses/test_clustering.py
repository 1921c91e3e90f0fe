"""Exact 2-means and k-means in one dimension, and the gap statistic."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from defenses.clustering import gap_clusters, two_means, within_sums


def brute_force(values: np.ndarray, clusters: int) -> float:
    """The least within-cluster sum of squares over all ways to cut the sorted values."""
    ordered = np.sort(values)
    return min(
        sum(((part - part.mean()) ** 2).sum() for part in np.split(ordered, cuts))
        for cuts in combinations(range(1, len(ordered)), clusters - 1)
    )


def test_two_means_by_hand() -> None:
    values = np.array([[0.0, 5.0, 2.0], [1.0, 5.0, 2.0], [9.0, -7.0, 2.0]])
    above, low, high = two_means(values)
    assert above.tolist() == [[False, True, False], [False, True, False], [True, False, False]]
    assert low.tolist() == [0.5, -7.0, 2.0]
    assert high.tolist() == [9.0, 5.0, 2.0]  # a column of equal values has one centre


def test_two_means_is_optimal_and_agrees_with_scikit_learn() -> None:
    values = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    above, low, high = two_means(values)
    for column, up, centre_low, centre_high in zip(
        values.T.astype(np.float64), above.T, low, high, strict=True
    ):
        within = ((column[up] - centre_high) ** 2).sum() + ((column[~up] - centre_low) ** 2).sum()
        assert within == pytest.approx(brute_force(column, 2), rel=1e-6)
        machine = KMeans(2, n_init=10, random_state=0).fit(column[:, None])
        assert within <= machine.inertia_ * (1 + 1e-9)


def test_two_means_keeps_digits_far_from_zero() -> None:
    values = np.array([[1e6], [1e6 + 0.25], [1e6 + 4.0]], np.float32)
    above, low, high = two_means(values)
    assert above[:, 0].tolist() == [False, False, True]
    assert (high - low)[0] == 3.875


def test_within_sums_are_those_of_brute_force() -> None:
    values = np.random.default_rng(1).normal(3.0, 1.0, size=9)
    expected = [brute_force(values, k) for k in (1, 2, 3, 4)]
    np.testing.assert_allclose(within_sums(values, 4), expected, rtol=1e-9)


def test_within_sums_reach_zero_with_a_cluster_for_each_value() -> None:
    assert within_sums(np.array([1.0, 2.0, 4.0]), 3).tolist() == pytest.approx([14 / 3, 0.5, 0.0], abs=1e-12)


@pytest.mark.parametrize("log_of_mean", [False, True])
def test_gap_statistic_counts_separate_groups(log_of_mean: bool) -> None:
    draw = np.random.default_rng(2)
    groups = [draw.normal(centre, 0.02, 20) for centre in (0.0, 1.0, 6.0)]
    for number in (2, 3):
        values = np.concatenate(groups[:number])
        assert gap_clusters(values, np.random.default_rng(0), log_of_mean=log_of_mean) == number
    assert gap_clusters(draw.uniform(size=60), np.random.default_rng(0), log_of_mean=log_of_mean) == 1


def test_gap_statistic_of_values_it_cannot_cluster() -> None:
    assert gap_clusters(np.ones(10), np.random.default_rng(0)) == 1
    assert gap_clusters(np.array([0.0, 1.0]), np.random.default_rng(0)) == 1
    assert gap_clusters(np.array([0.0] * 6 + [1.0] * 6), np.random.default_rng(0)) == 2
