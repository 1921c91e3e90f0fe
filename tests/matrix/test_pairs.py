"""Pairs: a symmetric matrix in tiles says of every row what the whole matrix says, and puts itself together within a budget."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import raysim.matrix.pairs as module
from raysim.backends.base import InProcessBackend
from raysim.errors import RunError
from raysim.matrix.pairs import Pairs, cut, is_whole, places

COUNT = 11


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of 3 rows, strips of 2, from the smallest matrix on."""
    monkeypatch.setattr(module, "WHOLE_BYTES", 0)
    monkeypatch.setattr(module, "SIDE", 3)
    monkeypatch.setattr(module, "STRIP_ROWS", 2)


def symmetric(*leading: int) -> np.ndarray:
    values = np.random.default_rng(0).integers(-9, 10, (*leading, COUNT, COUNT)).astype(np.float64)
    return values + values.swapaxes(-1, -2)


def in_tiles(values: np.ndarray) -> Pairs:
    backend, bounds = InProcessBackend(), cut(values.shape[-1])
    sides = [slice(a, b) for a, b in pairwise(bounds)]
    items = [(values, sides[i], sides[j]) for i, j in places(bounds)]
    pairs, answers = Pairs.make(backend, bounds, "tiles", tile_of, items)
    assert answers == [(sides[i].start, sides[j].start) for i, j in places(bounds)]
    return pairs


def tile_of(values: np.ndarray, rows: slice, columns: slice) -> tuple[np.ndarray, tuple[int, int]]:
    return values[..., rows, columns], (rows.start, columns.start)


def scaled(tile: np.ndarray, of_rows: np.ndarray, of_columns: np.ndarray) -> np.ndarray:
    return tile * np.outer(of_rows, of_columns)


def medians(rows: np.ndarray, first: int, add: float) -> np.ndarray:
    """The median of every row, plus its number times `add`."""
    return np.median(rows, axis=-1) + add * np.arange(first, first + rows.shape[-2])


def test_small_matrices_are_one_tile_and_large_ones_nearly_equal_sides() -> None:
    assert is_whole(1448)
    assert not is_whole(1449)
    assert cut(1448) == (0, 1448)
    sides = np.diff(cut(20_000))
    assert (len(sides), sides.min(), sides.max(), sides.sum()) == (20, 1000, 1000, 20_000)
    assert np.ptp(np.diff(cut(2500))) <= 1
    assert len(np.diff(cut(1449))) == 4


@pytest.mark.parametrize("leading", [(), (2,)])
def test_rows_and_products_are_those_of_the_whole_matrix(small_tiles: None, leading: tuple[int, ...]) -> None:
    values = symmetric(*leading)
    pairs = in_tiles(values)
    assert not pairs.is_whole
    assert len(pairs.tiles) == 10
    np.testing.assert_array_equal(pairs.to_array(), values)
    columns = np.random.default_rng(1).integers(-9, 10, (*leading, COUNT, 2)).astype(np.float64)
    np.testing.assert_array_equal(pairs.dot("product", columns), values @ columns)
    shared = columns[0] if leading else columns
    np.testing.assert_array_equal(pairs.dot("product", shared[None]), values @ shared[None])


def test_whole_rows_are_reduced_a_few_at_a_time(small_tiles: None) -> None:
    values = symmetric()
    pairs = in_tiles(values)
    expected = np.median(values, axis=1) + 0.5 * np.arange(COUNT)
    np.testing.assert_array_equal(pairs.map_rows("median", medians, 0.5), expected)
    np.testing.assert_array_equal(pairs.sums("sum"), values.sum(axis=1))
    np.testing.assert_array_equal(pairs.largest("largest"), values.max(axis=1))
    spans = [span for span in pairs.backend.telemetry.spans if span.stage == "median" and span.task >= 0]
    assert len(spans) == 4


def test_medians_degrees_and_what_lies_above_a_threshold(small_tiles: None) -> None:
    values = symmetric()
    pairs = in_tiles(values)
    np.testing.assert_array_equal(pairs.medians("median"), np.median(values, axis=1))
    above = values > 3
    np.fill_diagonal(above, False)
    np.testing.assert_array_equal(pairs.degrees("degree", 3), above.sum(axis=1))
    rows, columns, found = pairs.above("above", 3)
    assert (rows > columns).all()
    sparse = np.zeros_like(above)
    sparse[rows, columns] = sparse[columns, rows] = True
    np.testing.assert_array_equal(sparse, above)
    np.testing.assert_array_equal(found, values[rows, columns])


def test_tiles_are_changed_where_they_lie(small_tiles: None) -> None:
    values, along = symmetric(), np.arange(COUNT, dtype=np.float64)
    changed = in_tiles(values).map_tiles("scale", scaled, along)
    np.testing.assert_array_equal(changed.to_array(), values * np.outer(along, along))


def test_one_tile_is_what_it_was_given() -> None:
    values = symmetric()
    pairs = Pairs.whole(values, InProcessBackend())
    assert pairs.is_whole
    assert pairs.count == COUNT
    np.testing.assert_array_equal(pairs.to_array(), values)
    np.testing.assert_array_equal(pairs.map_rows("median", medians, 0.0), np.median(values, axis=1))


def test_more_than_the_budget_is_not_put_together(small_tiles: None) -> None:
    pairs = in_tiles(symmetric())
    pairs.to_array(8 * COUNT**2)
    with pytest.raises(RunError, match=r"11 x 11 pairs .* at most 10 clients"):
        pairs.to_array(8 * COUNT**2 - 1)
