import numpy as np

from attacks.rows import everyone, gram_with, mean_row, one_row_for_all, std_row
from raysim.attack import Visibility
from raysim.matrix.distances import distances_in
from tests.attacks.crafting import layout_of, round_of


def test_mean_and_std_do_not_depend_on_the_number_of_columns():
    columns = np.random.default_rng(0).normal(size=(37, 9)).astype(np.float32)
    mean = mean_row(columns)
    assert [mean_row(columns[:, [j]])[0] for j in range(9)] == mean.tolist()
    np.testing.assert_allclose(mean, columns.astype(np.float64).mean(0), rtol=1e-12)
    for ddof in (0, 1):
        expected = columns.astype(np.float64).std(0, ddof=ddof)
        np.testing.assert_allclose(std_row(columns, mean, ddof), expected, rtol=1e-12)
    assert std_row(columns[:1], columns[0].astype(float), 1).tolist() == [0.0] * 9


def test_one_row_for_all_keeps_the_mean_buffers_and_the_first_counter():
    rows = np.arange(20, dtype=np.float32).reshape(4, 5) ** 2
    view, _ = round_of(rows, [1, 3], layout=layout_of(3, buffers=2))
    assert view.benign is not None
    crafted = one_row_for_all(view.benign, view.own, "test", lambda columns: columns[0] - columns[1])
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
    gram = gram_with(rows, lambda block: (block, block.sum(0, keepdims=True)))
    joint = np.concatenate([rows, rows.astype(np.float64).sum(0, keepdims=True)])
    np.testing.assert_allclose(gram, joint @ joint.T, rtol=1e-9)
    expected = ((joint[:, None] - joint[None]) ** 2).sum(2)
    np.testing.assert_allclose(distances_in(gram), expected, rtol=1e-9, atol=1e-9)
