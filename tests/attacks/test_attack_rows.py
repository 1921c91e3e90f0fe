import numpy as np
import pytest

from attacks.rows import everyone, gram_with, mean_row, one_row_for_all, std_row
from raysim.attack import Visibility
from raysim.backends.base import InProcessBackend
from raysim.matrix.distances import distances_in
from raysim.matrix.updates import Updates
from tests.attacks.crafting import layout_of, round_of


@pytest.mark.parametrize("tiling", [{}, {"rows_per_block": 5, "bounds": (0, 4, 9)}])
def test_mean_and_std(tiling):
    rows = np.random.default_rng(0).normal(size=(37, 9)).astype(np.float32)
    updates = Updates.from_array(rows, InProcessBackend(), **tiling)
    mean = mean_row(updates, "test")
    np.testing.assert_allclose(mean, rows.astype(np.float64).mean(0), rtol=1e-12)
    for ddof in (0, 1):
        expected = rows.astype(np.float64).std(0, ddof=ddof)
        np.testing.assert_allclose(std_row(updates, mean, "test", ddof), expected, rtol=1e-12)
    alone = updates.select(np.array([0]))
    assert std_row(alone, mean_row(alone, "test"), "test", 1).tolist() == [0.0] * 9


def test_one_row_for_all_keeps_the_mean_buffers_and_the_first_counter():
    rows = np.arange(20, dtype=np.float32).reshape(4, 5) ** 2
    view, _ = round_of(rows, [1, 3], layout=layout_of(3, buffers=2))
    assert view.benign is not None
    crafted = one_row_for_all(view.benign, view.own, "test", rows[0, :3] - rows[2, :3])
    expected = [*(rows[0, :3] - rows[2, :3]), (rows[0, 3] + rows[2, 3]) / 2, rows[0, 4]]
    assert crafted.to_array(buffers=True).tolist() == [expected, expected]
    assert crafted.client_ids.tolist() == [1, 3]
    assert crafted.num_examples.tolist() == [2, 4]
    whole = everyone(view).replace_rows(crafted).to_array(buffers=True)
    assert whole.tolist() == [rows[0].tolist(), expected, rows[2].tolist(), expected]


def test_everyone_is_the_own_rows_where_nothing_else_is_seen():
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    view, _ = round_of(rows, [0, 2], visibility=Visibility.COLLUDING)
    assert everyone(view).to_array().tolist() == [[0, 1], [4, 5]]


def test_gram_with_an_added_row():
    rows = np.random.default_rng(1).normal(size=(3, 5000)).astype(np.float32)
    centre, row = rows.astype(np.float64).mean(0), np.random.default_rng(2).normal(size=5000)
    gram = gram_with(rows, row, centre)
    joint = np.concatenate([rows - centre, row[None]])
    np.testing.assert_allclose(gram, joint @ joint.T, rtol=1e-9, atol=1e-9)
    expected = ((joint[:, None] - joint[None]) ** 2).sum(2)
    np.testing.assert_allclose(distances_in(gram), expected, rtol=1e-9, atol=1e-9)
