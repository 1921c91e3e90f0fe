"""The row with the least Krum score from rough distances: that of exact ones, whatever the rows."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from raysim.backends import devices
from raysim.backends.base import InProcessBackend, ThreadLimit
from raysim.matrix import central_row as module
from raysim.matrix.central_row import central_row, score_bounds
from raysim.matrix.distances import krum_scores, squared_distances
from raysim.matrix.pair_distances import ROUGH, rough_distances
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates
from tests.tiled_methods import small_tiles

COUNT, DIM, BYZANTINE = 17, 5000, 3


def drawn(spread: float = 1.0) -> np.ndarray:
    """Rows around a shared direction, three of them far from it."""
    draw = np.random.default_rng(5)
    rows = draw.standard_normal(DIM) + spread * draw.standard_normal((COUNT, DIM))
    rows[:BYZANTINE] *= -20
    return rows.astype(np.float32)


def updates_of(rows: np.ndarray) -> Updates:
    return Updates.from_array(rows, InProcessBackend(), rows_per_block=4, bounds=(0, 4096, DIM))


def expected(rows: np.ndarray) -> int:
    wide = rows.astype(np.float64)
    distances = np.array([((wide - row) ** 2).sum(axis=1) for row in wide])
    return int(np.argmin(krum_scores(distances, BYZANTINE)))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of exact distances."""
    asked: list[Any] = []
    made = module.pair_distances
    monkeypatch.setattr(module, "pair_distances", lambda updates: asked.append(updates) or made(updates))
    return asked


@pytest.fixture(autouse=True)
def tiled(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)
    with small_tiles(), ThreadLimit(1)():
        yield


@pytest.mark.parametrize("scale", [1e-11, 1.0, 1e11])
def test_rough_distances_tell_the_row(exact: list[Any], scale: float) -> None:
    rows = drawn() * np.float32(scale)
    assert central_row(updates_of(rows), BYZANTINE) == expected(rows)
    assert exact == []


def with_twins() -> np.ndarray:
    """Five rows are one vector, up to the last digit: all their distances must be made again."""
    rows = drawn()
    rows[5:10] = rows[5]
    rows[7, 0] = np.nextafter(rows[7, 0], np.float32(9))
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        with_twins(),
        drawn(1e-4),
        drawn() * np.float32(1e18),
        drawn() * np.float32(1e-20),
        np.zeros((COUNT, DIM)),
    ],
    ids=["twins", "models", "overflows", "underflows", "nothing"],
)
def test_exact_ones_are_made_where_rough_ones_cannot_tell(exact: list[Any], rows: np.ndarray) -> None:
    rows = rows.astype(np.float32)
    found = central_row(updates_of(rows), BYZANTINE)
    assert len(exact) == 1
    assert found == np.argmin(krum_scores(squared_distances(updates_of(rows)), BYZANTINE))


def test_many_candidates_are_scored_with_all_others(
    exact: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CANDIDATES", 0)
    assert central_row(updates_of(drawn()), BYZANTINE) == expected(drawn())
    assert len(exact) == 1


def test_few_rows_are_one_tile_of_exact_distances(exact: list[Any]) -> None:
    with patch("raysim.matrix.pairs.WHOLE_BYTES", 8 * COUNT**2):
        assert central_row(updates_of(drawn()), BYZANTINE) == expected(drawn())
    assert len(exact) == 1


def test_scores_lie_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products rounded as coarsely as the bound on their error allows, all to one side."""
    rows = drawn()
    squares, distances = squared_norms(updates_of(rows)), squared_distances(updates_of(rows))
    norms = np.sqrt(squares)
    rough = rough_distances(updates_of(rows), squares).to_array()
    assert np.abs(rough - distances).max() > 0
    assert (np.abs(rough - distances) <= ROUGH * np.outer(norms, norms)).all()
    scores = krum_scores(distances, BYZANTINE)
    for worst in (-1, 0, 1):
        moved = distances + worst * ROUGH * np.outer(norms, norms)
        np.fill_diagonal(moved, 0)
        bounds = np.concatenate(
            [score_bounds(moved[[n]], n, norms, COUNT - BYZANTINE - 2, 1e-12) for n in range(COUNT)]
        )
        assert (bounds[:, 0] <= scores).all()
        assert (scores <= bounds[:, 1]).all()
        assert not bounds[:, 2].any()


def test_the_path_of_a_gpu(exact: list[Any]) -> None:
    backend = InProcessBackend(accelerator=devices.REHEARSAL)
    assert central_row(Updates.from_array(drawn(), backend), BYZANTINE) == expected(drawn())
    assert exact == []
    assert devices.REHEARSAL in {span.device for span in backend.telemetry.drain()}
