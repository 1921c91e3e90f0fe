from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from defenses.mda import MDA, coverable, smallest_diameter
from raysim.context import Setting
from raysim.errors import ConfigError


def setting(cohort: int) -> Setting:
    return Setting(population=cohort, cohort=cohort, num_malicious=0, rounds=1, num_classes=2)


def by_trying(distances: np.ndarray, removed: int) -> list[int]:
    """The first set of least diameter among all C(K, f)."""
    sets = combinations(range(len(distances)), len(distances) - removed)
    return list(min(sets, key=lambda members: distances[np.ix_(members, members)].max()))


def test_by_hand(apply_once):
    # Three of five on a line: {0, 1, 3} spans 3, {1, 3, 3.5} spans 2.5, {3, 3.5, 9} spans 6.
    verdict = apply_once(MDA(num_byzantine=2), [[0.0], [1.0], [3.0], [3.5], [9.0]])
    assert verdict.flagged.tolist() == [True, False, False, False, True]
    assert verdict.aggregate.tolist() == [2.5]
    assert verdict.scores.tolist() == [3.5, 2.5, 2.0, 2.5, 8.0]


@pytest.mark.parametrize("seed", range(12))
def test_against_all_sets(seed):
    draw = np.random.default_rng(seed)
    count, removed = 9, 1 + seed % 4
    points = (
        draw.integers(0, 6, (count, 2)) if seed % 2 else draw.standard_normal((count, 2))
    )  # with ties, and without
    distances = ((points[:, None] - points) ** 2).sum(axis=2)
    kept = smallest_diameter(distances, removed)
    assert np.flatnonzero(kept).tolist() == by_trying(distances, removed)


@pytest.mark.parametrize("seed", range(20))
def test_covers_against_all_removals(seed):
    draw = np.random.default_rng(seed)
    apart = np.triu(draw.random((8, 8)) < 0.15 + 0.02 * seed, 1)
    apart |= apart.T
    for budget in range(8):
        found = any(
            not apart[np.ix_(rest, rest)].any() for rest in map(list, combinations(range(8), 8 - budget))
        )
        assert coverable(apart, budget) == found


def test_a_ring_of_odd_length_needs_one_more_than_half():
    ring = np.roll(np.eye(5, dtype=bool), 1, axis=1)
    assert not coverable(ring | ring.T, 2)
    assert coverable(ring | ring.T, 3)


def test_many_clients_are_searched_exactly():
    # 40 clients near each other and 20 further away: C(60, 20) sets, none of which is tried.
    draw = np.random.default_rng(0)
    points = draw.standard_normal((60, 3))
    points[draw.permutation(60)[:20]] += 8
    distances = ((points[:, None] - points) ** 2).sum(axis=2)
    assert smallest_diameter(distances, 20).tolist() == (np.abs(points).max(axis=1) < 5).tolist()


def test_against_byzfl(apply_once, byzfl):
    rows = np.random.default_rng(3).standard_normal((9, 40)).astype(np.float32)
    verdict = apply_once(MDA(num_byzantine=3), rows)
    np.testing.assert_allclose(verdict.aggregate, byzfl.MDA(3)(rows), rtol=1e-5, atol=1e-7)


def test_nobody_malicious_is_the_mean(apply_once):
    verdict = apply_once(MDA(num_byzantine=0), [[0.0], [1.0], [5.0]])
    assert verdict.aggregate.tolist() == [2.0]
    assert not verdict.flagged.any()


def test_refuses_what_it_cannot_search():
    with pytest.raises(ConfigError, match="less than half of 8"):
        MDA(num_byzantine=4).check(setting(8))
    with pytest.raises(ConfigError) as caught:
        MDA(num_byzantine=31).check(setting(100))
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("num_byzantine", 31, 30)
    assert MDA().assumed(100) == 30
    MDA().check(setting(100))
