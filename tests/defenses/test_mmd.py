"""Maximum mean discrepancy against its definition."""

from __future__ import annotations

import numpy as np
import pytest

from defenses import mmd
from defenses.mmd import centred, kernel_sums, median_squared_distance, pairwise_mmd
from raysim.backends import devices


@pytest.fixture
def context(make_updates, make_context):
    return make_context(make_updates([[0.0]]))


def by_definition(samples: np.ndarray, squared_bandwidth: float, estimator: str) -> np.ndarray:
    """Equation 4 of FLARE, term by term in float64."""
    count, size = samples.shape[:2]

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-np.sum((a.astype(float) - b) ** 2) / (2 * squared_bandwidth)))

    result = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            one, other = samples[i], samples[j]
            within = sum(
                kernel(part[a], part[b])
                for part in (one, other)
                for a in range(size)
                for b in range(size)
                if a != b
            )
            cross = sum(kernel(a, b) for a in one for b in other)
            pairs = size * (size - 1)
            result[i, j] = within / pairs - 2 * cross / (pairs if estimator == "paper" else size**2)
    return result


@pytest.mark.parametrize("estimator", ["paper", "unbiased"])
@pytest.mark.parametrize("tile", [mmd.TILE_POINTS, 8, 1])
def test_against_the_definition_however_it_is_tiled(context, monkeypatch, estimator: str, tile: int) -> None:
    monkeypatch.setattr(mmd, "TILE_POINTS", tile)
    samples = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    result = pairwise_mmd(samples, context, squared_bandwidth=2.5, estimator=estimator)  # type: ignore[arg-type]
    np.testing.assert_allclose(result, by_definition(samples, 2.5, estimator), atol=2e-6)
    assert np.array_equal(result, result.T)


@pytest.mark.parametrize("size", [2, 7, 10])
def test_equal_sets_by_the_paper_s_formula(context, size: int) -> None:
    one = np.random.default_rng(0).normal(size=(size, 6)).astype(np.float32)
    result = pairwise_mmd(np.stack([one, one, one + 9]), context, squared_bandwidth=1.0)
    np.testing.assert_allclose([result[0, 1], *np.diagonal(result)], -2 / (size - 1), atol=1e-5)
    unbiased = pairwise_mmd(np.stack([one, one]), context, squared_bandwidth=1.0, estimator="unbiased")
    assert unbiased[0, 1] > -2 / (size - 1)


@pytest.mark.parametrize("tile", [mmd.TILE_POINTS, 8])
def test_the_path_of_a_gpu_against_the_definition(context, monkeypatch, tile: int) -> None:
    monkeypatch.setattr(mmd, "TILE_POINTS", tile)
    monkeypatch.setattr(context.backend, "accelerator", devices.REHEARSAL)
    samples = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    result = pairwise_mmd(samples, context, squared_bandwidth=2.5)
    np.testing.assert_allclose(result, by_definition(samples, 2.5, "paper"), atol=2e-6)
    assert np.array_equal(result, result.T)
    assert {span.device for span in context.backend.telemetry.drain()} == {devices.REHEARSAL}


def test_two_points_by_hand(context) -> None:
    # squared distances 2 and 8 with sigma^2 = 1: kernels e^-1 and e^-4
    samples = np.array([[[0, 0], [1, 1]], [[2, 2], [2, 2]]], np.float32)
    sums = kernel_sums(samples, context, 1.0)
    np.testing.assert_allclose(sums[0], [2 + 2 * np.exp(-1), 2 * np.exp(-4) + 2 * np.exp(-1)], rtol=1e-6)
    result = pairwise_mmd(samples, context, squared_bandwidth=1.0)
    np.testing.assert_allclose(result[0, 1], np.exp(-1) + 1 - sums[0, 1], rtol=1e-6)


def test_median_heuristic() -> None:
    points = np.array([[0.0], [1.0], [3.0]], np.float32)
    assert median_squared_distance(points) == 4  # of 1, 4, 9
    assert median_squared_distance(np.ones((5, 2), np.float32)) == 0
    assert median_squared_distance(np.ones((1, 2), np.float32)) == 0
    mostly_equal = np.array([[0.0]] * 4 + [[2.0]], np.float32)
    assert median_squared_distance(mostly_equal) == pytest.approx(4 * 4 / 10)


def test_the_median_of_many_points_is_that_of_a_spread_subsample(monkeypatch) -> None:
    draw = np.random.default_rng(0)
    centres = np.repeat(draw.normal(size=(10, 1, 3)), 60, axis=1) * 3  # ten samples per client, 60 clients
    points = (centres + draw.normal(size=centres.shape)).transpose(1, 0, 2).reshape(-1, 3).astype(np.float32)
    exact = median_squared_distance(points)
    monkeypatch.setattr(mmd, "BANDWIDTH_POINTS", 200)
    assert median_squared_distance(points) == median_squared_distance(points.copy())
    assert median_squared_distance(points) != exact
    assert median_squared_distance(points) == pytest.approx(exact, rel=0.05)


def test_centring_is_not_moved_by_an_outlier(context) -> None:
    samples = (np.random.default_rng(0).normal(size=(6, 4, 3)) * 1e-2 + 1000).astype(np.float32)
    expected = by_definition(samples[:5] - np.float32(1000), 1e-4, "unbiased")
    samples[5] = 1e12
    result = pairwise_mmd(centred(samples), context, squared_bandwidth=1e-4, estimator="unbiased")
    np.testing.assert_allclose(result[:5, :5], expected, atol=1e-5)
