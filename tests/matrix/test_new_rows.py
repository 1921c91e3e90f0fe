from __future__ import annotations

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.new_rows import rows_of_another_width
from raysim.matrix.updates import Updates


def running_sums(row: np.ndarray, width: int) -> np.ndarray:
    return np.cumsum(np.resize(row, width)).astype(np.float32)


@pytest.mark.parametrize("tiling", [{}, {"rows_per_block": 2, "bounds": (0, 3, 5)}])
@pytest.mark.parametrize("width", [2, 5, 9])
def test_whole_rows_become_rows_of_another_width(tiling, width):
    """Buffers are left out; row, client and examples stay together; sums know the new rows' largest values."""
    layout = Layout((Entry("weight", (5,), 0, 5),), (Entry("running_mean", (1,), 5, 6),))
    rows = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    ids, examples = np.array([7, 2, 9, 4, 1]), np.array([1, 2, 3, 4, 5])
    updates = Updates.from_array(
        rows, InProcessBackend(), layout=layout, client_ids=ids, num_examples=examples, **tiling
    )
    made = rows_of_another_width(updates.select(updates.client_ids > 1), "sums", running_sums, width, width)
    assert made.client_ids.tolist() == [2, 4, 7, 9]
    assert made.num_examples.tolist() == [2, 4, 1, 3]
    expected = np.stack([running_sums(rows[place, :5], width) for place in (1, 3, 0, 2)])
    np.testing.assert_array_equal(made.to_array(), expected)
    np.testing.assert_allclose(made.gram(), expected.astype(np.float64) @ expected.T, rtol=1e-6)
    np.testing.assert_allclose(made.combine(np.arange(4.0)), np.arange(4.0) @ expected, rtol=1e-6)
