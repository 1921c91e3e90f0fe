from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from defenses.order_statistics import BLOCK, mean_around_median, median, trimmed_mean


@pytest.mark.parametrize("count", [1, 2, 3, 16, 17, 50])
def test_against_numpy(count):
    columns = np.random.default_rng(count).standard_normal((count, BLOCK + 5)).astype(np.float32)
    ascending = np.sort(columns.astype(np.float64), axis=0)
    np.testing.assert_allclose(median(columns), np.median(columns.astype(np.float64), axis=0), rtol=1e-6)
    for trim in range(0, (count + 1) // 2, max(1, count // 5)):
        expected = ascending[trim : count - trim].mean(axis=0)
        np.testing.assert_allclose(trimmed_mean(columns, trim=trim), expected, rtol=1e-5, atol=1e-7)


def test_even_count_takes_the_mean_of_the_middle_two():
    columns = np.array([[1.0], [2.0], [10.0], [4.0]], np.float32)
    assert median(columns) == 3.0
    assert median(columns, even="lower") == 2.0
    assert median(columns, even="upper") == 4.0


def test_numbers_near_the_end_of_the_range_do_not_overflow():
    huge = np.full((4, 1), 3e38, np.float32)
    for rule in (median(huge), trimmed_mean(huge, trim=1), mean_around_median(huge, count=2)):
        assert rule == np.float32(3e38)


def nearest_by_definition(values: np.ndarray, count: int) -> list[float]:
    """The `count` values nearest the median; the lower of two equally far ones is nearer."""
    middle = np.median(values)
    return sorted(values, key=lambda value: (abs(value - middle), value))[:count]


def test_mean_around_median_on_every_small_case():
    for count in (3, 4, 5):
        cases = np.array(list(itertools.product((-2.0, 0.0, 1.0, 2.0), repeat=count)))
        for kept in range(1, count + 1):
            expected = [np.mean(nearest_by_definition(case, kept)) for case in cases]
            found = mean_around_median(cases.T.astype(np.float32), count=kept)
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_order_of_rows_does_not_matter():
    draw = np.random.default_rng(0)
    columns = draw.standard_normal((9, 40)).astype(np.float32)
    shuffled = draw.permutation(columns)
    assert median(columns).tobytes() == median(shuffled).tobytes()
    assert trimmed_mean(columns, trim=2).tobytes() == trimmed_mean(shuffled, trim=2).tobytes()
    assert mean_around_median(columns, count=4).tobytes() == mean_around_median(shuffled, count=4).tobytes()


@pytest.mark.parametrize("count", [1, 4, 5, 16])
def test_tensors_give_what_arrays_give(count):
    """Medians to the bit; means up to the order in which float64 numbers are added."""
    columns = np.random.default_rng(count).standard_normal((count, 300)).astype(np.float32)
    given = torch.from_numpy(columns.copy())
    for even in ("mean", "lower", "upper"):
        np.testing.assert_array_equal(median(given, even=even).numpy(), median(columns, even=even))
    for trim in range((count + 1) // 2):
        found = trimmed_mean(given, trim=trim)
        np.testing.assert_allclose(found.numpy(), trimmed_mean(columns, trim=trim), rtol=1e-6)
    for kept in range(1, count + 1):
        found = mean_around_median(given, count=kept)
        np.testing.assert_allclose(found.numpy(), mean_around_median(columns, count=kept), rtol=1e-6)
