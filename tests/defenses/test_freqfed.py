from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dct

from defenses.freqfed import FreqFed, largest_cluster, low_frequencies


def by_definition(row: np.ndarray) -> np.ndarray:
    """DCT-II: c_k sqrt(2 / d) sum_j x_j cos(pi k (2 j + 1) / (2 d)), with c_0 = sqrt(1 / 2)."""
    count = len(row)
    place, frequency = np.arange(count), np.arange(count)[:, None]
    waves = np.cos(np.pi * frequency * (2 * place + 1) / (2 * count)) * np.sqrt(2 / count)
    waves[0] /= np.sqrt(2)
    return waves @ row


def test_coefficients_by_definition():
    row = np.array([3.0, -1.0, 4.0, 1.0, -5.0], np.float32)
    np.testing.assert_allclose(low_frequencies(row, 5), by_definition(row), rtol=1e-6)
    np.testing.assert_allclose(low_frequencies(row, 2), by_definition(row)[:2], rtol=1e-6)


def test_by_hand(apply_once):
    # (1, 1, 0, 0) and its mirror image have opposite first waves and the same mean: of the two low frequencies, 1 and
    # +-w, the cosine is (1 - w^2) / (1 + w^2), where w = (cos(pi / 8) + cos(3 pi / 8)) / sqrt(2).
    rows = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 0.0, 0.0]]
    w = (np.cos(np.pi / 8) + np.cos(3 * np.pi / 8)) / np.sqrt(2)
    apart = 1 - (1 - w**2) / (1 + w**2)
    verdict = apply_once(FreqFed(), rows)
    expected = np.array([[0, apart, 0], [apart, 0, apart], [0, apart, 0]])
    np.testing.assert_allclose(verdict.artifacts["cosine_distance"], expected, atol=1e-6)
    np.testing.assert_allclose(verdict.scores, [apart / 2, apart, apart / 2], atol=1e-6)
    assert not verdict.flagged.any()


def wave(frequency: int) -> np.ndarray:
    """The DCT's own wave [64] of a frequency."""
    return np.cos(np.pi * frequency * (2 * np.arange(64) + 1) / 128)


def rows_with_two_attackers() -> np.ndarray:
    """Nine rows of one low frequency, two of another; each with a high frequency of its own."""
    low = np.where(np.arange(11)[:, None] < 9, wave(1), wave(3))
    return low + np.stack([3.0 * wave(40 + number) for number in range(11)])


@pytest.mark.parametrize("options", [{}, {"min_cluster_size": 2}])
def test_high_frequencies_are_not_looked_at(apply_once, options):
    verdict = apply_once(FreqFed(**options), rows_with_two_attackers())
    assert np.flatnonzero(verdict.flagged).tolist() == [9, 10]
    everything = apply_once(FreqFed(kept_share=1.0, **options), rows_with_two_attackers())
    assert verdict.artifacts["cosine_distance"][0, 1] == 0
    assert everything.artifacts["cosine_distance"][0, 1] > 0.8


def test_the_mean_is_weighted_by_examples_and_tiles_do_not_matter(apply_once):
    rows = rows_with_two_attackers().astype(np.float32)
    examples = np.arange(1, 12)
    verdict = apply_once(FreqFed(), rows, num_examples=examples)
    np.testing.assert_allclose(
        verdict.aggregate, examples[:9] @ rows[:9] / examples[:9].sum(), rtol=1e-4, atol=1e-6
    )
    tiled = apply_once(FreqFed(), rows, num_examples=examples, rows_per_block=4, bounds=(0, 5, 64))
    assert tiled.scores.tobytes() == verdict.scores.tobytes()
    coefficients = dct(rows.astype(np.float64), norm="ortho")[:, :32]
    units = coefficients / np.linalg.norm(coefficients, axis=1, keepdims=True)
    np.testing.assert_allclose(verdict.artifacts["cosine_distance"], 1 - units @ units.T, atol=1e-6)


def test_without_a_cluster_everybody_is_kept():
    distances = 1.0 - np.eye(5)
    assert largest_cluster(distances, 2).all()
