"""Sums over single rows: the values, and the same bytes in any tiles and beside any rows."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.matrix.row_products import products_with, squared_norms, squares_about
from raysim.matrix.updates import Updates


@pytest.fixture
def make_updates():
    return lambda rows, **options: Updates.from_array(
        np.array(rows, np.float32), InProcessBackend(), **options
    )


def test_by_hand(make_updates):
    updates = make_updates([[0, 0, 0], [3, 4, 0], [0, 0, 2]])
    assert squared_norms(updates).tolist() == [0, 25, 4]
    assert products_with(updates, np.array([1, 2, 3], np.float32), "x").tolist() == [[0, 0], [11, 25], [6, 4]]
    assert squares_about(updates, np.array([1.0, 2.0, 3.0]), "x").tolist() == [14, 17, 6]


@pytest.mark.parametrize("rows_per_block", [None, 1, 2, 4])
@pytest.mark.parametrize("bounds", [(0, 9001), (0, 8192, 9001), (0, 17, 4096, 5000, 9001)])
def test_what_is_said_of_a_row_alone_is_the_same_bytes_in_any_tiles(make_updates, rows_per_block, bounds):
    rows = np.random.default_rng(3).standard_normal((7, 9001)).astype(np.float32)
    vector = np.random.default_rng(4).standard_normal(9001).astype(np.float32)
    expected = products_with(make_updates(rows), vector, "similarity")
    np.testing.assert_allclose(expected[:, 0], rows.astype(float) @ vector.astype(float), rtol=1e-9)
    updates = make_updates(rows, rows_per_block=rows_per_block, bounds=bounds)
    assert products_with(updates, vector, "similarity").tobytes() == expected.tobytes()
    assert squared_norms(updates).tobytes() == expected[:, 1].tobytes()
    point = vector.astype(np.float64) / 3
    apart = squares_about(make_updates(rows), point, "apart")
    np.testing.assert_allclose(apart, ((rows - point) ** 2).sum(1), rtol=1e-12)
    assert squares_about(updates, updates.backend.put(point), "apart").tobytes() == apart.tobytes()
    for place in range(7):
        assert squared_norms(updates.select(np.array([place])))[0] == expected[place, 1]
