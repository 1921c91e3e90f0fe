from __future__ import annotations

import numpy as np
import pytest

import raysim.matrix.updates
from raysim.backends.base import InProcessBackend
from raysim.matrix.distances import distances_between, distances_in, krum_scores, refined, squared_distances
from raysim.matrix.row_products import squared_norms
from raysim.matrix.updates import Updates


@pytest.fixture
def make_updates():
    return lambda rows, **options: Updates.from_array(
        np.array(rows, np.float32), InProcessBackend(), **options
    )


def exact(rows: np.ndarray) -> np.ndarray:
    """Squared distances by direct differences in float64."""
    wide = rows.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(axis=2)


def test_three_points(make_updates):
    updates = make_updates([[0, 0, 0], [3, 4, 0], [0, 0, 2]])
    assert squared_distances(updates).tolist() == [[0, 25, 4], [25, 0, 29], [4, 29, 0]]
    assert squared_norms(updates).tolist() == [0, 25, 4]


def test_agrees_with_direct_differences(make_updates):
    rows = np.random.default_rng(0).standard_normal((9, 5000)).astype(np.float32)
    np.testing.assert_allclose(squared_distances(make_updates(rows)), exact(rows), rtol=1e-12)
    np.testing.assert_allclose(
        squared_norms(make_updates(rows)), (rows.astype(float) ** 2).sum(1), rtol=1e-12
    )


def test_near_duplicates_keep_their_digits_and_their_order(make_updates):
    draw = np.random.default_rng(1)
    rows = draw.standard_normal((12, 100)).astype(np.float32)
    rows *= np.float32(10) / np.linalg.norm(rows, axis=1, keepdims=True)
    for near, original in ((3, 2), (4, 2), (5, 2), (8, 7), (9, 7)):  # two groups of colluders
        rows[near] = rows[original] + (near * 1e-8 * draw.standard_normal(100)).astype(np.float32)
    expected, found = exact(rows), squared_distances(make_updates(rows))
    close = (expected > 0) & (expected < 1e-10)
    assert close.sum() >= 12, "the test needs distances that a Gram matrix alone loses"
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert (np.argsort(found, axis=1, kind="stable") == np.argsort(expected, axis=1, kind="stable")).all()


def test_groups_within_groups(make_updates):
    # Distances of about 1e-3 inside a group of norm 10, and of 1e-7 inside a part of it.
    draw = np.random.default_rng(2)
    base = draw.standard_normal(64)
    rows = np.stack([base * s for s in (1, 1, 1, 1, 1, -1)])
    rows[1:5] += 1e-4 * draw.standard_normal(64)
    rows = rows.astype(np.float32)
    rows[2] = np.nextafter(rows[1], np.float32(9))
    rows[3, :5] = np.nextafter(rows[1, :5], np.float32(9))
    np.testing.assert_allclose(squared_distances(make_updates(rows)), exact(rows), rtol=1e-9)


def test_equal_rows_are_at_distance_zero(make_updates):
    rows = np.random.default_rng(3).standard_normal((5, 999)).astype(np.float32)
    rows[[1, 3]] = rows[4]
    distances = squared_distances(make_updates(rows))
    assert distances[np.ix_([1, 3, 4], [1, 3, 4])].max() == 0
    assert distances[0, 1] == distances[0, 3] == distances[0, 4] > 0
    assert (distances == distances.T).all()


def test_tiles_do_not_matter(make_updates, monkeypatch):
    monkeypatch.setattr(raysim.matrix.updates, "CHUNK_VALUES", 2**14)
    rows = np.random.default_rng(4).standard_normal((7, 9000)).astype(np.float32)
    rows[4] = rows[2] * np.float32(1 + 1e-6)
    whole = squared_distances(make_updates(rows))
    tiled = squared_distances(make_updates(rows, rows_per_block=2, bounds=(0, 4096, 8192, 9000)))
    assert whole.tobytes() == tiled.tobytes()
    assert whole[2, 4] == pytest.approx(exact(rows)[2, 4], rel=1e-9)


def test_a_gram_at_hand_gives_the_same_distances(make_updates):
    rows = np.random.default_rng(3).standard_normal((5, 300)).astype(np.float32)
    rows[1] = rows[0] + np.float32(1e-6)
    updates = make_updates(rows)
    np.testing.assert_array_equal(refined(updates, updates.gram()), squared_distances(updates))
    np.testing.assert_allclose(distances_in(updates.gram())[2:, 2:], exact(rows)[2:, 2:], rtol=1e-12)


def test_distances_between_two_sets_of_points():
    left, right = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[0.0, 4.0], [3.0, 4.0], [6.0, 8.0]])
    assert distances_between(left, right).tolist() == [[16, 25, 100], [9, 0, 25]]


def test_krum_scores_of_a_given_number_of_neighbours():
    points = np.array([[0.0], [1.0], [3.0], [7.0]])
    scores = krum_scores(exact(points), 0, neighbours=2)
    assert scores.tolist() == [1 + 9, 1 + 4, 4 + 9, 16 + 36]
    assert krum_scores(exact(points), 0, neighbours=1, squared=False).tolist() == [1, 1, 2, 4]
