import operator
from functools import partial

import numpy as np
import pytest

from attacks.min_max import MinMax, MinSum, largest_feasible
from raysim.attack import Visibility
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, tilings

ROWS = np.random.default_rng(3).normal(0.3, 1.0, size=(8, 25)).astype(np.float32)
ATTACKERS = [0, 6]
BENIGN = np.delete(ROWS, ATTACKERS, axis=0).astype(np.float64)
MEAN = BENIGN.mean(0)
DIRECTIONS = {"std": -BENIGN.std(0), "unit": -MEAN / np.linalg.norm(MEAN), "sign": -np.sign(MEAN)}
BETWEEN = ((BENIGN[:, None] - BENIGN[None]) ** 2).sum(2)


def to_benign(row):
    return ((row - BENIGN) ** 2).sum(1)


def largest_root(square, linear, constant):
    """Where square g^2 + linear g + constant = 0, the larger root."""
    return (-linear + np.sqrt(linear**2 - 4 * square * constant)) / (2 * square)


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
def test_min_max_takes_the_largest_step_within_the_largest_benign_distance(direction):
    crafted, said = craft(MinMax(direction=direction), ROWS, ATTACKERS)
    p, centred = DIRECTIONS[direction], BENIGN - MEAN
    exact = min(largest_root(p @ p, -2 * x @ p, x @ x - BETWEEN.max()) for x in centred)
    assert said["direction"] == direction
    assert exact - 2e-5 <= said["gamma"] <= exact
    np.testing.assert_allclose(crafted, [MEAN + said["gamma"] * p] * 2, rtol=1e-5, atol=1e-6)
    assert to_benign(crafted[0]).max() <= BETWEEN.max() * (1 + 1e-6)
    assert to_benign(MEAN + (said["gamma"] + 1e-3) * p).max() > BETWEEN.max()


@pytest.mark.parametrize("direction", ["std", "unit", "sign"])
def test_min_sum_takes_the_largest_step_within_the_largest_benign_sum(direction):
    crafted, said = craft(MinSum(direction=direction), ROWS, ATTACKERS)
    p, limit = DIRECTIONS[direction], BETWEEN.sum(1).max()
    exact = largest_root(len(BENIGN) * (p @ p), 0.0, to_benign(MEAN).sum() - limit)
    assert exact - 2e-5 <= said["gamma"] <= exact
    assert to_benign(crafted[0]).sum() <= limit * (1 + 1e-6)
    assert to_benign(MEAN + (said["gamma"] + 1e-3) * p).sum() > limit


def test_a_zero_direction_falls_back_to_the_deviation_and_then_to_the_mean():
    symmetric = np.array([[9, 9], [1, 2], [-1, -2]], np.float32)
    crafted, said = craft(MinMax(direction="unit"), symmetric, [0])
    assert said["direction"] == "std"
    assert said["gamma"] > 0
    np.testing.assert_allclose(crafted[0], -said["gamma"] * np.array([1, 2]), rtol=1e-6)
    crafted, said = craft(MinMax(), np.ones((3, 2), np.float32), [0])
    assert crafted.tolist() == [[1, 1]]
    assert said["gamma"] == 0


def test_the_bisection_is_not_limited_by_where_it_starts():
    for bound in (0.0, 0.7, 19.0, 1234.5):
        found = largest_feasible(partial(operator.ge, bound), 10.0, 1e-5)
        assert bound - 2e-5 <= found <= bound


def test_own_statistics_use_the_colluders_only():
    attack = MinSum(statistics="own")
    assert attack.visibility is Visibility.COLLUDING
    assert attack.trains
    crafted, said = craft(attack, ROWS, ATTACKERS)
    own = ROWS[ATTACKERS].astype(np.float64)
    gaps = ((crafted[0] - own) ** 2).sum()
    assert said["gamma"] > 0
    assert gaps <= ((own[0] - own[1]) ** 2).sum() * (1 + 1e-6)
    assert craft(attack, ROWS, [4])[0].tolist() == [ROWS[4].tolist()]


@pytest.mark.parametrize("attack", [MinMax(), MinSum(direction="unit")])
def test_bytes_do_not_depend_on_tiling(attack):
    made = [craft(attack, ROWS, ATTACKERS, **cut)[0] for cut in tilings(25)]
    assert made[0].tobytes() == made[1].tobytes()
    np.testing.assert_allclose(made[2], made[0], rtol=1e-6)


@pytest.mark.parametrize(
    "options", [{"direction": "sdt"}, {"statistics": "all"}, {"initial_gamma": 0.0}, {"tolerance": 0.0}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        MinMax(**options)
