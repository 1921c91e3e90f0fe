"""Random sign projections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from defenses.sketch import sketch, sketch_codes, sketch_rows, sketch_size
from raysim.matrix.layout import Entry


def test_by_hand() -> None:
    codes = np.array([1, -2, 0, 1, 2], np.int32)
    assert sketch_size(codes) == 2
    assert sketch(np.array([1, 2, 3, 4, 5], np.float32), codes, 2).tolist() == [5, 3]
    assert sketch(np.array([0, 1, 0, 0, 0], np.float32), codes, 2).tolist() == [0, -1]


def test_rows_by_hand(make_updates: Callable) -> None:
    rows = np.array([[1, 2, 3, 4, 5], [0, 1, 0, 0, 0]], np.float32)
    for codes in ([1, -2, 0, 1, 2], [0, -2, 0, 1, 0], [0] * 5):
        found = sketch_rows(make_updates(rows), np.array(codes, np.int32), 2, "sketch")
        assert found.tolist() == [sketch(row, np.array(codes), 2).tolist() for row in rows]


def test_few_parameters_are_kept_as_they_are() -> None:
    entries = (Entry("a", (2,), 1, 3), Entry("b", (1,), 4, 5))
    codes = sketch_codes(6, 4, np.random.default_rng(0), entries)
    assert codes.tolist() == [0, 1, 2, 0, 3, 0]
    assert sketch_codes(3, 3, np.random.default_rng(0)).tolist() == [1, 2, 3]


def test_keeps_distances_and_does_not_depend_on_tiles(make_updates: Callable) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 20_000)).astype(np.float32)
    codes = sketch_codes(20_000, 4096, np.random.default_rng(1))
    assert set(np.sign(codes)) == {-1, 1}
    assert sketch_size(codes) == 4096
    whole = sketch_rows(make_updates(rows), codes, 4096, "sketch")
    tiled = sketch_rows(make_updates(rows, rows_per_block=2), codes, 4096, "sketch")
    assert whole.tobytes() == tiled.tobytes()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        ratio = ((whole[i] - whole[j]) ** 2).sum() / ((rows[i] - rows[j]) ** 2).sum()
        assert abs(ratio - 1) < 4 * np.sqrt(2 / 4096)
