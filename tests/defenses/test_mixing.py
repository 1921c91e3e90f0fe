"""Rows that are means of others: by hand, in any tiles, and untouched by rows they are not made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from defenses.mixing import mix_rows


def test_by_hand(make_updates: Callable) -> None:
    updates = make_updates(np.array([[1, 2], [3, 4], [5, 12]], np.float32))
    mixing = np.array([[0.5, 0.5, 0], [0, 0, 1], [0, 0, 0]])
    assert mix_rows(updates, mixing).to_array().tolist() == [[2, 3], [5, 12], [0, 0]]
    two = mix_rows(updates, mixing[:2], client_ids=np.array([0, 2]), num_examples=np.array([4, 5]))
    assert (two.client_ids.tolist(), two.num_examples.tolist()) == ([0, 2], [4, 5])


def test_the_same_bytes_in_any_tiles_and_as_matrix_product(make_updates: Callable) -> None:
    rows = np.random.default_rng(0).normal(size=(6, 9001)).astype(np.float32)
    mixing = np.random.default_rng(1).random((6, 6))
    whole = mix_rows(make_updates(rows), mixing).to_array()
    np.testing.assert_allclose(whole, mixing @ rows.astype(np.float64), rtol=1e-6, atol=1e-9)
    tiled = mix_rows(make_updates(rows, rows_per_block=2, bounds=(0, 8192, 9001)), mixing)
    assert tiled.to_array().tobytes() == whole.tobytes()


def test_a_row_leaves_no_trace_in_those_that_are_not_made_of_it(make_updates: Callable) -> None:
    rows = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    mixing = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    mixing = np.concatenate([mixing, mixing])
    before = mix_rows(make_updates(rows), mixing).to_array()
    rows[3] *= np.float32(1e30)
    assert mix_rows(make_updates(rows), mixing).to_array()[0].tobytes() == before[0].tobytes()
