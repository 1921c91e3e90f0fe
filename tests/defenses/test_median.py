from __future__ import annotations

import numpy as np
import pytest
import torch

from defenses.median import Median
from raysim.errors import ConfigError


def test_by_hand(apply_once):
    verdict = apply_once(Median(), [[1, 9, 3], [2, -9, 3], [30, 1, 4]])
    assert verdict.aggregate.tolist() == [2.0, 1.0, 3.0]
    assert verdict.weights is None
    assert verdict.flagged is None


@pytest.mark.parametrize(
    ("even", "four", "three"),
    [("mean", [3.0, 6.5], [2.0, 6.0]), ("lower", [2.0, 6.0], [2.0, 6.0]), ("upper", [4.0, 7.0], [2.0, 6.0])],
)
def test_an_even_number_of_updates_by_hand(apply_once, even, four, three):
    rows = [[1, 7], [2, 5], [10, 6], [4, 8]]
    assert apply_once(Median(even=even), rows).aggregate.tolist() == four
    assert apply_once(Median(even=even), rows[:3]).aggregate.tolist() == three


@pytest.mark.parametrize("count", [9, 10])
def test_lower_is_that_of_torch(apply_once, count):
    rows = np.random.default_rng(count).standard_normal((count, 3000)).astype(np.float32)
    expected = torch.from_numpy(rows).median(dim=0).values.numpy()
    assert apply_once(Median(even="lower"), rows).aggregate.tobytes() == expected.tobytes()


def test_refuses_an_unknown_median():
    with pytest.raises(ConfigError, match=r"even: must be one of lower, mean, upper.*'lower'"):
        Median(even="low")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [9, 10])
def test_against_byzfl(apply_once, byzfl, count):
    rows = np.random.default_rng(count).standard_normal((count, 3000)).astype(np.float32)
    expected = byzfl.Median()(rows.astype(np.float64))
    np.testing.assert_allclose(apply_once(Median(), rows).aggregate, expected, rtol=1e-6)
