import numpy as np
import pytest

from attacks.ipm import InnerProductManipulation
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, tilings


def test_minus_epsilon_times_the_benign_mean():
    rows = np.array([[2, -4, 1], [8, 8, 8], [4, 0, 3]], np.float32)
    crafted, _ = craft(InnerProductManipulation(epsilon=0.5), rows, [1], layout=layout_of(2, buffers=1))
    assert crafted.tolist() == [[-1.5, 1.0, 1.0]]
    assert craft(InnerProductManipulation(), rows, [0, 1, 2])[0] is None


def test_inner_product_of_a_half_attacked_mean_with_the_benign_mean_turns_negative():
    rows = np.random.default_rng(0).normal(1.0, 1.0, size=(10, 50)).astype(np.float32)
    crafted, _ = craft(InnerProductManipulation(epsilon=2.0), rows, [0, 1, 2, 3, 4])
    benign = rows[5:].mean(0)
    assert np.concatenate([crafted, rows[5:]]).mean(0) @ benign < 0


def test_bytes_do_not_depend_on_tiling():
    rows = np.random.default_rng(0).normal(size=(9, 31)).astype(np.float32)
    attack = InnerProductManipulation()
    assert len({craft(attack, rows, [2, 3], **cut)[0].tobytes() for cut in tilings(31)}) == 1


def test_epsilon_must_be_positive():
    with pytest.raises(ConfigError):
        InnerProductManipulation(epsilon=0.0)
