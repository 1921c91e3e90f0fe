import numpy as np
import pytest

from attacks.alie import ALIE, deviation
from raysim.attack import Visibility
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, tilings

ROWS = np.array([[9, 9], [1, 4], [2, 4], [9, 9], [3, 4], [6, 4]], np.float32)
"""Benign rows 1, 2, 4, 5: mean (3, 4), population deviation (sqrt(3.5), 0)."""


def test_deviation_by_the_printed_formula():
    assert deviation(10, 4) == pytest.approx(0.430727, abs=1e-6)  # s = 2, Phi^-1(4 / 6)
    assert deviation(10, 2) == pytest.approx(0.0, abs=1e-12)  # s = 4, Phi^-1(4 / 8)
    assert deviation(10, 1) < 0  # s = 5, Phi^-1(4 / 9)
    assert deviation(3, 2) == deviation(4, 4) == pytest.approx(2.326348, abs=1e-6)  # kept at 0.99
    assert deviation(2, 1) == pytest.approx(-2.326348, abs=1e-6)  # s = 1: probability 0, kept at 0.01


def test_mean_minus_z_deviations():
    crafted, said = craft(ALIE(z=2.0), ROWS, [0, 3])
    np.testing.assert_allclose(crafted, [[3 - 2 * np.sqrt(3.5), 4]] * 2, rtol=1e-6)
    assert said == {"z": 2.0}
    crafted, said = craft(ALIE(), ROWS, [0, 3])
    assert said["z"] == pytest.approx(deviation(6, 2))
    np.testing.assert_allclose(crafted[0], [3 - said["z"] * np.sqrt(3.5), 4], rtol=1e-6)


def test_sign_and_bessel_are_options():
    crafted, _ = craft(ALIE(z=1.0, sign=1, ddof=1), ROWS, [0, 3])
    np.testing.assert_allclose(crafted[0], [3 + np.sqrt(14 / 3), 4], rtol=1e-6)


def test_own_statistics_use_the_colluders_only():
    attack = ALIE(statistics="own", z=1.0)
    assert attack.visibility is Visibility.COLLUDING
    assert attack.trains
    crafted, _ = craft(attack, ROWS, [1, 4], layout=layout_of(1, 1))
    np.testing.assert_allclose(crafted, [[1.0, 4]] * 2)
    crafted, _ = craft(attack, ROWS, [5])
    assert crafted.tolist() == [[6, 4]]


def test_bytes_do_not_depend_on_tiling():
    rows = np.random.default_rng(0).normal(size=(9, 31)).astype(np.float32)
    assert len({craft(ALIE(), rows, [2, 3, 7], **cut)[0].tobytes() for cut in tilings(31)}) == 1


def test_a_round_without_benign_clients_crafts_nothing():
    assert craft(ALIE(), ROWS, list(range(6))) == (None, {})


@pytest.mark.parametrize("options", [{"statistics": "benigm"}, {"sign": 0}, {"ddof": 2}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        ALIE(**options)
