import numpy as np
import pytest

from attacks.noise_columns import BLOCK, ColumnNoise


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_column_draws_the_same_in_any_range(kind):
    noise = ColumnNoise(5, ("attack", 2, 9))
    whole = getattr(noise, kind)(0, 2 * BLOCK + 50)
    pieces = [(0, 7), (7, BLOCK - 7), (BLOCK, 1), (BLOCK + 1, BLOCK + 49)]
    assert np.concatenate([getattr(noise, kind)(*piece) for piece in pieces]).tobytes() == whole.tobytes()


def test_keys_and_blocks_draw_independently():
    one, other = ColumnNoise(5, ("a",)).normal(0, 2 * BLOCK), ColumnNoise(5, ("b",)).normal(0, 2 * BLOCK)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(one[:BLOCK], one[BLOCK:])[0, 1]) < 0.04


def test_uniform_and_normal_have_the_moments_asked_for():
    noise = ColumnNoise(1, ("moments",))
    uniform, normal = noise.uniform(0, 40_000, 1.0, 2.0), noise.normal(0, 40_000, -3.0, 0.5)
    assert uniform.dtype == normal.dtype == np.float32
    assert 1.0 <= uniform.min() < 1.001
    assert 1.999 < uniform.max() <= 2.0
    assert uniform.mean() == pytest.approx(1.5, abs=0.01)
    assert normal.mean() == pytest.approx(-3.0, abs=0.02)
    assert normal.std() == pytest.approx(0.5, abs=0.02)
