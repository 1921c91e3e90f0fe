"""FLAME by hand, its distances against extended precision, and its majority cluster."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defenses.flame import (
    Flame,
    majority_cluster,
    model_cosine_distances,
    products_with_global,
    row_distances,
)
from raysim.errors import ConfigError


@pytest.fixture
def judge(make_updates, make_context):
    """judge(defense, rows, w_G, **cut) -> verdict."""

    def apply(defense: Flame, rows: Any, global_vector: Any, **cut: Any):
        updates = make_updates(rows, **cut)
        context = make_context(updates, global_vector=np.asarray(global_vector, np.float32))
        verdict, state = defense.apply({}, updates, context)
        assert state == {}
        return verdict

    return apply


def test_distances_by_hand() -> None:
    rows, vector = np.array([[0.0, 1.0], [0.0, -1.0], [-1.0, 1.0], [-1.0, 0.0]]), np.array([1.0, 0.0])
    # the models (1, 1), (1, -1), (0, 1) and (0, 0)
    half = 1 - np.sqrt(0.5)
    expected = [[0, 1, half, 1], [1, 0, 1 + np.sqrt(0.5), 1], [half, 1 + np.sqrt(0.5), 0, 1], [1, 1, 1, 0]]
    distances = model_cosine_distances(products_with_global(rows.astype(np.float64), vector))
    np.testing.assert_allclose(distances, expected, atol=1e-15)


def test_small_updates_of_a_large_model_keep_their_digits() -> None:
    draw = np.random.default_rng(0)
    vector = draw.normal(size=3000).astype(np.float32)
    rows = (1e-5 * draw.normal(size=(4, 3000))).astype(np.float32)
    rows[3] = rows[0]
    distances = model_cosine_distances(products_with_global(rows.astype(np.float64), vector))
    models = vector.astype(np.longdouble) + rows
    lengths = np.sqrt((models * models).sum(axis=1))
    exact = 1 - (models @ models.T) / lengths[:, None] / lengths
    apart = np.triu_indices(3, 1)
    assert exact[apart].max() < 1e-9
    np.testing.assert_allclose(distances[apart], exact[apart].astype(float), rtol=1e-7)
    assert distances[0, 3] == 0


def test_the_majority_stays_together() -> None:
    place = np.array([0.0, 0.1, 0.15, 0.2, 5.0, 5.1])
    accepted = majority_cluster(np.abs(place[:, None] - place))
    assert accepted.tolist() == [True, True, True, True, False, False]
    assert majority_cluster(np.zeros((5, 5))).all()
    assert majority_cluster(1.0 - np.eye(4)).all()  # all equally far: they part together or not at all


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_there_always_is_a_majority(decimals: int) -> None:
    draw = np.random.default_rng(decimals)
    for count in (4, 5, 8, 9):
        for scale in (
            1.0,
            6.0,
        ):  # round numbers have many ties; a large scale spreads over orders of magnitude
            points = np.exp(scale * draw.normal(size=count).round(decimals))
            accepted = majority_cluster(np.abs(points[:, None] - points))
            assert accepted.sum() > count / 2


def test_row_distances_by_hand() -> None:
    distances = np.array([[0.0, 3.0, 4.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
    # rows of length 1: (0, .6, .8), (1, 0, 0), (1, 0, 0)
    root = np.sqrt(2.0)
    np.testing.assert_allclose(row_distances(distances), [[0, root, root], [root, 0, 0], [root, 0, 0]])
    assert not row_distances(np.zeros((3, 3))).any()


def test_clustering_by_rows(judge) -> None:
    # Models at 0, 10, 50, 80 and 110 degrees. By cosine, 50 is nearer to 80 (0.134) than to 10 (0.234); as rows of
    # these distances, scaled to length 1, it is nearer to 10 (0.718) than to 80 (0.753).
    angles = np.deg2rad([0, 10, 50, 80, 110])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    by_cosine = judge(Flame(noise_factor=0.0), rows, [0.0, 0.0])
    by_rows = judge(Flame(noise_factor=0.0, clustering="rows"), rows, [0.0, 0.0])
    assert by_cosine.flagged.tolist() == [True, True, False, False, False]
    assert by_rows.flagged.tolist() == [False, False, False, True, True]
    apart = row_distances(by_rows.artifacts["cosine_distance"])
    assert apart[2].tolist() == pytest.approx([0.743, 0.718, 0, 0.753, 0.872], abs=5e-4)


def test_by_hand_without_noise(judge) -> None:
    # models around (10, 0): two pairs lean one way, one client the other; the median norm is 2.5
    lean = np.array([2, 2.5, 4, 4.5, -1])
    verdict = judge(Flame(noise_factor=0.0), np.stack([0 * lean, lean], axis=1), [10, 0])
    assert verdict.flagged.tolist() == [False, False, False, False, True]
    assert verdict.weights.tolist() == [0.25] * 4 + [0]
    np.testing.assert_allclose(verdict.aggregate, [0, (2 + 2.5 + 2.5 + 2.5) / 4])
    angles = np.arctan2(lean, 10)
    apart = 1 - np.cos(angles[:, None] - angles)
    np.testing.assert_allclose(verdict.scores[:4], apart[:4, :4].sum(axis=1) / 3, rtol=1e-6)
    np.testing.assert_allclose(verdict.scores[4], apart[4, :4].mean(), rtol=1e-6)
    assert verdict.scores.argmax() == 4


def test_noise_follows_the_median_norm(judge) -> None:
    rows = np.zeros((5, 20_000), np.float32)
    rows[:, 0] = 50.0
    vector = np.ones(20_000)
    plain, noisy = (judge(Flame(noise_factor=factor), rows, vector) for factor in (0.0, 0.01))
    noise = noisy.aggregate - plain.aggregate
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert abs(noise.mean()) < 0.02
    assert np.array_equal(noisy.aggregate, judge(Flame(noise_factor=0.01), rows, vector).aggregate)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_too_few_for_a_majority_are_all_accepted(judge, count: int) -> None:
    rows = np.array([[1, 0], [-1, 0], [0, 1]])[:count]
    verdict = judge(Flame(noise_factor=0.0), rows, [0.5, 0.5])
    assert not verdict.flagged.any()
    np.testing.assert_allclose(verdict.aggregate, rows.mean(axis=0), atol=1e-7)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [1.0, 2.0]])
def test_zero_and_equal_updates(judge, vector) -> None:
    nothing = judge(Flame(), np.zeros((5, 2)), vector)
    assert not nothing.aggregate.any()
    equal = judge(Flame(noise_factor=0.0), [[0.3, 0.1]] * 5, vector)
    assert not equal.flagged.any()
    np.testing.assert_allclose(equal.aggregate, [0.3, 0.1], rtol=1e-6)
    assert np.isfinite(equal.scores).all()


def test_however_the_matrix_is_cut(judge) -> None:
    draw = np.random.default_rng(0)
    rows, vector = draw.normal(size=(7, 9000)), draw.normal(size=9000)
    first = judge(Flame(), rows, vector)
    second = judge(Flame(), rows, vector, rows_per_block=2, bounds=(0, 4096, 8192, 9000))
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_refuses_negative_noise() -> None:
    with pytest.raises(ConfigError, match="noise_factor"):
        Flame(noise_factor=-0.1)


def test_refuses_an_unknown_clustering() -> None:
    with pytest.raises(ConfigError, match="clustering"):
        Flame(clustering="columns")  # type: ignore[arg-type]
