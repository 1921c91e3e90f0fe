from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from defenses import smea
from defenses.mda import MDA
from defenses.smea import SMEA
from raysim.context import Setting
from raysim.errors import ConfigError


def setting(cohort: int) -> Setting:
    return Setting(population=cohort, cohort=cohort, num_malicious=0, rounds=1, num_classes=2)


def largest_variance(rows: np.ndarray) -> float:
    """The largest eigenvalue of the covariance [d, d] of the rows."""
    return float(np.linalg.eigvalsh(np.cov(rows.T, bias=True))[-1])


def test_by_hand(apply_once):
    # Of three points, two vary by a quarter of their squared distance: 1 / 4 for the first two, 4 and 13 / 4 with the third.
    verdict = apply_once(SMEA(num_byzantine=1), [[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]])
    assert verdict.flagged.tolist() == [False, False, True]
    assert verdict.aggregate.tolist() == [0.0, 0.5]
    np.testing.assert_allclose(verdict.scores, [0.5, 0.5, np.sqrt(16.25)])


def test_a_wider_set_that_varies_less_in_every_direction_is_preferred(apply_once):
    # (0, 0), (1, 0), (0.02, 0) have diameter 1 and squared deviations of 0.65 along one line; with (0.5, 0.97) instead
    # of the last, the diameter is 1.09, and the squared deviations are 0.5 and 0.63 along two.
    rows = [[0.0, 0.0], [1.0, 0.0], [0.02, 0.0], [0.5, 0.97]]
    assert apply_once(SMEA(num_byzantine=1), rows).flagged.tolist() == [False, False, True, False]
    assert apply_once(MDA(num_byzantine=1), rows).flagged.tolist() == [False, False, False, True]


@pytest.mark.parametrize("seed", range(4))
def test_against_covariances_of_all_sets(apply_once, monkeypatch, seed):
    monkeypatch.setattr(smea, "SETS_PER_TASK", 17)  # several tasks
    rows = np.random.default_rng(seed).standard_normal((8, 5)).astype(np.float32)
    verdict = apply_once(SMEA(num_byzantine=2 + seed % 2), rows)
    size = 6 - seed % 2
    expected = min(combinations(range(8), size), key=lambda members: largest_variance(rows[list(members)]))
    assert np.flatnonzero(~verdict.flagged).tolist() == list(expected)
    np.testing.assert_allclose(verdict.aggregate, rows[list(expected)].mean(axis=0), rtol=1e-5, atol=1e-7)
    distances = np.linalg.norm(rows - rows[list(expected)].mean(axis=0), axis=1)
    np.testing.assert_allclose(verdict.scores, distances, rtol=1e-5)


def test_against_byzfl_in_one_dimension(apply_once, byzfl):
    # One parameter has one direction: one step of the power method, which ByzFL takes, is then exact.
    rows = np.random.default_rng(3).standard_normal((9, 1)).astype(np.float32)
    verdict = apply_once(SMEA(num_byzantine=3), rows)
    np.testing.assert_allclose(verdict.aggregate, byzfl.SMEA(3)(rows), rtol=1e-5)


def test_refuses_more_sets_than_it_tries():
    SMEA(num_byzantine=8).check(setting(20))
    with pytest.raises(ConfigError, match="at most 131072 sets of 20 clients") as caught:
        SMEA(num_byzantine=9).check(setting(20))
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("num_byzantine", 9, 8)
    assert [SMEA().assumed(count) for count in (1, 2, 9, 20, 50)] == [0, 0, 4, 8, 3]
    with pytest.raises(ConfigError, match="at most 131072 sets"):  # of more than can be written down
        SMEA(num_byzantine=8_000).check(setting(16_384))
    with pytest.raises(ConfigError, match="less than half"):
        SMEA(num_byzantine=3).check(setting(6))
