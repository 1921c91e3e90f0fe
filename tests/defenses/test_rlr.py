from __future__ import annotations

import numpy as np
import pytest

from defenses.rlr import RLR
from raysim.context import Setting
from raysim.errors import ConfigError

# Sums of signs: 3, 1, -1 (sign(0) = 0), 0.
ROWS = [[1.0, 2.0, -3.0, 0.0], [2.0, -8.0, 0.0, 0.0], [3.0, 3.0, 0.0, 0.0]]


def test_by_hand(apply_once):
    verdict = apply_once(RLR(threshold=2), ROWS)
    assert verdict.aggregate.tolist() == [2.0, 1.0, 1.0, 0.0]
    assert verdict.weights is None
    assert verdict.flagged is None


def test_threshold_one_and_learning_rate(apply_once):
    verdict = apply_once(RLR(threshold=1, learning_rate=0.5), ROWS)
    assert verdict.aggregate.tolist() == [1.0, -0.5, -0.5, 0.0]


def test_the_vote_is_by_head_and_the_mean_by_examples(apply_once):
    verdict = apply_once(RLR(threshold=3), ROWS, num_examples=[2, 1, 1])
    assert verdict.aggregate.tolist() == [1.75, 0.25, 1.5, 0.0]


def test_against_the_definition(apply_once):
    rows = np.random.default_rng(0).standard_normal((9, 6000)).astype(np.float32)
    wide = rows.astype(np.float64)
    expected = np.where(np.abs(np.sign(wide).sum(0)) >= 5, 1, -1) * wide.mean(0)
    np.testing.assert_allclose(apply_once(RLR(), rows).aggregate, expected, rtol=1e-5, atol=1e-8)


def test_fewer_rows_than_the_threshold_ask_for_unanimity(apply_once):
    assert apply_once(RLR(threshold=9), [[1.0, 1.0], [3.0, -3.0]]).aggregate.tolist() == [2.0, 1.0]


def test_checks():
    five = Setting(population=5, cohort=5, num_malicious=0, rounds=1, num_classes=2)
    with pytest.raises(ConfigError) as caught:
        RLR(threshold=6).check(five)
    assert (caught.value.key, caught.value.nearest) == ("threshold", 5)
    with pytest.raises(ConfigError, match="learning_rate"):
        RLR(learning_rate=0.0)
