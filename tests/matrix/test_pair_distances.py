"""Distances made tile by tile: those of the whole matrix, whatever the tiles of the updates, close rows included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import raysim.matrix.pair_distances as module
import raysim.matrix.pairs
import raysim.matrix.updates
from raysim.backends import devices
from raysim.backends.base import InProcessBackend
from raysim.matrix.distances import krum_scores, squared_distances
from raysim.matrix.pair_distances import nearest_scores, pair_distances, pair_products
from raysim.matrix.updates import Updates

COUNT, COLUMNS = 23, 9000


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of 5 rows, chunks of 4,096 columns, and one column shard a task."""
    monkeypatch.setattr(raysim.matrix.pairs, "WHOLE_BYTES", 0)
    monkeypatch.setattr(raysim.matrix.pairs, "SIDE", 5)
    monkeypatch.setattr(raysim.matrix.updates, "CHUNK_VALUES", 4096 * COUNT)
    monkeypatch.setattr(module, "TASK_BYTES", 1)


def drawn() -> np.ndarray:
    """Rows of which some are equal, and others lie closer together than a Gram matrix can tell."""
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((COUNT, COLUMNS)).astype(np.float32)
    rows[[3, 11, 22]] = rows[7]
    rows[4] = rows[7] * np.float32(1 + 1e-6)
    rows[19] = rows[0] + np.float32(1e-7) * draw.standard_normal(COLUMNS).astype(np.float32)
    return rows


def updates_of(rows: np.ndarray, **options: Any) -> Updates:
    return Updates.from_array(rows, InProcessBackend(), **options)


def test_close_rows_keep_their_digits_and_equal_ones_are_at_distance_0() -> None:
    rows = drawn()
    tiled = pair_distances(updates_of(rows)).to_array()
    wide = rows.astype(np.float64)
    exact = ((wide[:, None] - wide) ** 2).sum(axis=2)
    np.testing.assert_allclose(tiled, exact, rtol=1e-9)
    np.testing.assert_allclose(tiled, squared_distances(updates_of(rows)), rtol=1e-9)
    np.testing.assert_array_equal(tiled, tiled.T)
    assert not tiled[np.ix_([3, 7, 11, 22], [3, 7, 11, 22])].any()
    assert 0 < tiled[4, 7] < 1e-6
    assert 0 < tiled[0, 19] < 1e-6


def test_the_updates_tiles_change_no_byte() -> None:
    rows = drawn()
    whole = pair_distances(updates_of(rows)).to_array()
    cut = pair_distances(updates_of(rows, bounds=(0, 4096, 8192, COLUMNS), rows_per_block=4)).to_array()
    assert whole.tobytes() == cut.tobytes()


def test_sums_are_carried_from_task_to_task() -> None:
    updates = updates_of(drawn()[:2], bounds=(0, 4096, 8192, COLUMNS))
    pair_distances(updates, "pairs")
    spans = [span for span in updates.backend.telemetry.spans if span.stage == "pairs" and span.task >= 0]
    assert len(spans) == 3 * 3 + 1  # of each of the three tiles, after the norms of the one row block


def test_around_a_point() -> None:
    rows = drawn()[:3] + np.float32(100)
    mean = rows.astype(np.float64).mean(axis=0)
    found = pair_distances(updates_of(rows), about=mean).to_array()
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(found, ((wide[:, None] - wide) ** 2).sum(axis=2), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"squared": False}, {"neighbours": 3}])
def test_krum_scores_of_tiles(options: dict[str, Any]) -> None:
    distances = pair_distances(updates_of(drawn()))
    expected = krum_scores(distances.to_array(), 4, **options)
    np.testing.assert_array_equal(nearest_scores(distances, "krum", 4, **options), expected)


def test_the_path_of_a_gpu() -> None:
    rows, backend = drawn(), InProcessBackend(accelerator=devices.REHEARSAL)
    there = Updates.from_array(rows, backend)
    np.testing.assert_allclose(
        pair_distances(there).to_array(), pair_distances(updates_of(rows)).to_array(), rtol=1e-9
    )
    mean = rows.astype(np.float64).mean(axis=0)
    options = {"about": mean, "scale": 1 + np.abs(mean)}
    found, diagonal = pair_products(there, **options)
    scaled = (rows - options["about"]) * options["scale"]
    np.testing.assert_allclose(found.to_array(), scaled @ scaled.T, atol=1e-8)
    np.testing.assert_array_equal(diagonal, np.diagonal(found.to_array()))
    assert devices.REHEARSAL in {span.device for span in backend.telemetry.drain()}


def test_small_matrices_are_those_of_one_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raysim.matrix.pairs, "WHOLE_BYTES", 8 * COUNT**2)
    found = pair_distances(updates_of(drawn()))
    assert found.is_whole
    assert found.to_array().tobytes() == squared_distances(updates_of(drawn())).tobytes()
