from __future__ import annotations

import numpy as np
import pytest

from defenses.median import Median


def test_by_hand(apply_once):
    verdict = apply_once(Median(), [[1, 9, 3], [2, -9, 3], [30, 1, 4]])
    assert verdict.aggregate.tolist() == [2.0, 1.0, 3.0]
    assert verdict.weights is None
    assert verdict.flagged is None


@pytest.mark.parametrize("count", [9, 10])
def test_against_byzfl(apply_once, byzfl, count):
    rows = np.random.default_rng(count).standard_normal((count, 3000)).astype(np.float32)
    expected = byzfl.Median()(rows.astype(np.float64))
    np.testing.assert_allclose(apply_once(Median(), rows).aggregate, expected, rtol=1e-6)
