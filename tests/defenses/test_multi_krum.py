from __future__ import annotations

import numpy as np
import pytest

from defenses.multi_krum import MultiKrum
from raysim.context import Setting
from raysim.errors import ConfigError

LINE = [[0.0], [1.0], [3.0], [4.0], [50.0]]


def test_by_hand(apply_once):
    verdict = apply_once(MultiKrum(num_byzantine=1), LINE)
    assert verdict.aggregate.tolist() == [2.0]
    assert verdict.weights.tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    assert verdict.flagged.tolist() == [False, False, False, False, True]
    assert verdict.scores.tolist() == [10, 5, 5, 10, 46**2 + 47**2]


def test_num_selected_flags_the_rest(apply_once):
    verdict = apply_once(MultiKrum(num_byzantine=1, num_selected=3), LINE)
    assert verdict.flagged.tolist() == [False, False, False, True, True], "of equal scores the first is kept"
    assert verdict.aggregate.tolist() == [np.float32(4 / 3)]


def test_data_weighted(apply_once):
    verdict = apply_once(MultiKrum(num_byzantine=1, data_weighted=True), LINE, num_examples=[1, 1, 1, 5, 9])
    assert verdict.weights.tolist() == [0.125, 0.125, 0.125, 0.625, 0]
    assert verdict.aggregate.tolist() == [3.0]


@pytest.mark.parametrize(
    ("options", "scores", "aggregate"),
    [
        ({}, [45, 18, 45, 30.5, 25.25, 55.25], (0 + 100.5) / 2),
        ({"squared": False}, [9, 6, 9, 6, 5.5, 10.5], (0 + 100.5) / 2),
        ({"neighbours": 1}, [9, 9, 9, 0.25, 0.25, 25], (100 + 100.5) / 2),
        ({"squared": False, "neighbours": 3}, [112, 106, 106, 103, 103, 113], (100 + 100.5) / 2),
    ],
)
def test_plain_distances_and_neighbours_by_hand(apply_once, options, scores, aggregate):
    rows = [[-3.0], [0.0], [3.0], [100.0], [100.5], [105.5]]
    verdict = apply_once(MultiKrum(num_byzantine=2, num_selected=2, **options), rows)
    assert verdict.scores.tolist() == scores
    assert verdict.aggregate.tolist() == [aggregate]


def test_no_attackers_assumed_is_the_mean(apply_once):
    rows = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    verdict = apply_once(MultiKrum(num_byzantine=0), rows)
    np.testing.assert_allclose(verdict.aggregate, rows.astype(float).mean(axis=0), rtol=1e-6)
    assert not verdict.flagged.any()


def test_against_byzfl_where_the_definitions_agree(apply_once, byzfl):
    # ByzFL scores by K - f' - 1 neighbours and keeps K - f': with f' = f + 1 the scores are those of the paper.
    rows = np.random.default_rng(3).standard_normal((11, 40)).astype(np.float32)
    verdict = apply_once(MultiKrum(num_byzantine=3, num_selected=7), rows)
    np.testing.assert_allclose(verdict.aggregate, byzfl.MultiKrum(4)(rows), rtol=1e-5, atol=1e-6)


def test_checks():
    small = Setting(population=9, cohort=5, num_malicious=0, rounds=1, num_classes=2)
    for wrong, key, nearest in (
        (MultiKrum(num_byzantine=2), "num_byzantine", 1),
        (MultiKrum(num_selected=6), "num_selected", 5),
    ):
        with pytest.raises(ConfigError) as caught:
            wrong.check(small)
        assert (caught.value.key, caught.value.nearest) == (key, nearest)
    with pytest.raises(ConfigError, match="num_selected"):
        MultiKrum(num_selected=0)
    with pytest.raises(ConfigError, match="neighbours"):
        MultiKrum(neighbours=0)
