from __future__ import annotations

import numpy as np
import pytest

from defenses.trimmed_mean import TrimmedMean
from raysim.context import Setting
from raysim.errors import ConfigError


def test_by_hand(apply_once):
    verdict = apply_once(TrimmedMean(trim=1), [[1, 9, 3], [2, -9, 3], [30, 1, 4], [4, 2, 5]])
    assert verdict.aggregate.tolist() == [3.0, 1.5, 3.5]
    assert verdict.weights is None
    assert verdict.flagged is None


def test_trimming_nothing_is_the_mean(apply_once):
    rows = np.random.default_rng(0).standard_normal((7, 30)).astype(np.float32)
    verdict = apply_once(TrimmedMean(trim=0), rows)
    np.testing.assert_allclose(verdict.aggregate, rows.astype(float).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("trim", [1, 4])
def test_against_byzfl(apply_once, byzfl, trim):
    rows = np.random.default_rng(1).standard_normal((10, 3000)).astype(np.float32)
    expected = byzfl.TrMean(trim)(rows.astype(np.float64))
    np.testing.assert_allclose(
        apply_once(TrimmedMean(trim=trim), rows).aggregate, expected, rtol=1e-5, atol=1e-7
    )


def test_none_drops_a_fifth(apply_once):
    rows = np.arange(10.0)[:, None] ** 3
    assert apply_once(TrimmedMean(), rows).aggregate == np.float32((rows[2:8]).mean())


def test_fewer_rows_than_planned_leave_the_median(apply_once):
    assert apply_once(TrimmedMean(trim=5), [[1.0], [2.0], [4.0], [9.0]]).aggregate == 3.0


def test_refuses_to_drop_everything():
    four = Setting(population=4, cohort=4, num_malicious=0, rounds=1, num_classes=2)
    TrimmedMean(trim=1).check(four)
    with pytest.raises(ConfigError) as caught:
        TrimmedMean(trim=2).check(four)
    assert (caught.value.key, caught.value.nearest) == ("trim", 1)
    with pytest.raises(ConfigError, match="at least 0"):
        TrimmedMean(trim=-1)
