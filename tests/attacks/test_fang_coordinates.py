from typing import Any

import numpy as np
import pytest

from attacks.fang_median import FangMedian
from attacks.fang_trimmed_mean import FangTrimmedMean, trimmed_mean
from raysim.attack import Visibility
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, layout_of, tilings

GLOBAL = np.array([10.0, 10.0, -10.0, -10.0, 1.0, -5.0, 0.0], np.float32)
# Columns: moves up / down with positive weights, up / down with negative ones, not on average, weights of both
# signs with the least one at 0, and a small change.
UPDATES = np.array(
    [
        [1.0, -1.0, 1.0, -1.0, -2.0, 5.0, 0.3],
        [2.0, -2.0, 2.0, -2.0, 1.0, 6.0, 0.1],
        [3.0, -3.0, 3.0, -3.0, -1.0, 7.0, -0.2],
        [2.5, -2.5, 2.5, -2.5, 2.0, 6.5, 0.2],
    ],
    np.float32,
)
OWN = np.array([[-3.0, 3.0, -3.0, 3.0, 0.0, 4.0, -1.0]], np.float32)
"""Beyond the benign on the side that is measured: counts for the direction, not for the extremes."""


def test_full_knowledge_draws_beyond_the_benign_extremes():
    rows = np.concatenate([OWN, UPDATES])
    many = [
        craft(FangTrimmedMean(stretch=2.0), rows, [0], global_vector=GLOBAL, round=r)[0][0] for r in range(60)
    ]
    weights = np.array(many) + GLOBAL
    expected = [
        (11 / 2, 11),  # rises, least weight 11: [min / b, min]
        (9, 9 * 2),  # falls, greatest 9: [max, b max]
        (-9 * 2, -9),  # rises, least -9: [b min, min]
        (-11, -11 / 2),  # falls, greatest -11: [max, max / b]
        (1, 1),  # does not change on average: w_G
        (0, 0),  # rises, least weight exactly 0
        (-0.4, -0.2),  # rises, least -0.2
    ]
    for column, (low, high) in zip(weights.T, expected, strict=True):
        assert low - 1e-5 <= column.min() <= column.max() <= high + 1e-5
        if low < high:
            assert column.min() < low + 0.15 * (high - low)
            assert column.max() > high - 0.15 * (high - low)


def test_attackers_draw_separately_and_a_smaller_stretch_stays_closer():
    rows = np.concatenate([OWN, OWN, UPDATES])
    crafted, said = craft(FangTrimmedMean(stretch=1.05), rows, [0, 1], global_vector=GLOBAL)
    assert said == {"failed": False}
    assert (crafted[0, :4] != crafted[1, :4]).all()
    weights = crafted + GLOBAL
    assert (weights[:, 1] >= 9 - 1e-5).all()
    assert (weights[:, 1] <= 9 * 1.05 + 1e-5).all()


def test_the_direction_is_that_of_the_rule_over_all_honest_models():
    # Sorted: -9 -9 -1 2 3. Mean -2.8, trimmed (2 per side) and median -1, trimmed (1 per side) -8 / 3.
    rows = np.array([[-9.0], [-9.0], [-1.0], [2.0], [3.0]], np.float32)
    np.testing.assert_allclose(trimmed_mean(rows, 0), -2.8, rtol=1e-6)
    np.testing.assert_allclose(trimmed_mean(rows, 1), -8 / 3, rtol=1e-6)
    np.testing.assert_allclose(trimmed_mean(rows, 2), -1)
    # Sorted: -9 1 2 3: the mean falls, the trimmed mean and the median rise.
    rows = np.array([[-9.0], [1.0], [2.0], [3.0]], np.float32)
    up = craft(FangTrimmedMean(num_byzantine=1), rows, [1])[0]
    down = craft(FangTrimmedMean(num_byzantine=0), rows, [1])[0]
    assert up[0, 0] <= -9
    assert down[0, 0] >= 3
    assert craft(FangMedian(), rows, [1])[0][0, 0] <= -9


def test_the_median_of_an_even_number_is_the_middle_twos_mean():
    rows = np.array([[-5.0], [-2.0], [1.0], [7.0]], np.float32)
    assert craft(FangMedian(), rows, [0])[0][0, 0] >= 7
    rows = np.array([[-5.0], [-1.0], [2.0], [7.0]], np.float32)
    assert craft(FangMedian(), rows, [0])[0][0, 0] <= -1


def test_partial_knowledge_draws_three_to_four_deviations_from_the_own_mean():
    own = np.array([[1.0, -1.0, 2.0], [3.0, -5.0, -2.0]], np.float32)
    rows = np.concatenate([own, np.full((3, 3), 77, np.float32)])
    attack = FangTrimmedMean(knowledge="partial")
    assert attack.visibility is Visibility.COLLUDING
    crafted = np.concatenate([craft(attack, rows, [0, 1], round=r)[0] for r in range(40)])
    for column, (low, high) in zip(crafted.T, [(2 - 4, 2 - 3), (-3 + 6, -3 + 8), (0, 0)], strict=True):
        assert low - 1e-5 <= column.min() <= column.max() <= high + 1e-5
        assert high == 0 or column.max() - column.min() > 0.8 * (high - low)
    alone, _ = craft(FangMedian(knowledge="partial"), rows, [1])
    assert alone.tolist() == [own[1].tolist()]
    assert craft(FangMedian(knowledge="partial"), 0 * rows, [1])[0].tolist() == [[0, 0, 0]]


def test_a_round_without_benign_clients_fails_and_says_so():
    assert craft(FangTrimmedMean(), UPDATES, [0, 1, 2, 3]) == (None, {"failed": True})


@pytest.mark.parametrize("attack", [FangTrimmedMean(), FangMedian(), FangMedian(knowledge="partial")])
def test_bytes_do_not_depend_on_tiling_and_buffers_stay_own(attack):
    rows = np.random.default_rng(0).normal(size=(9, 31)).astype(np.float32)
    options: dict[str, Any] = {
        "layout": layout_of(28, buffers=3),
        "global_vector": np.full(31, 0.5, np.float32),
    }
    made = [craft(attack, rows, [2, 3, 7], **options, **cut)[0] for cut in tilings(28)]
    assert len({rows.tobytes() for rows in made}) == 1
    np.testing.assert_array_equal(made[0][:, 28:], rows[[2, 3, 7], 28:])


@pytest.mark.parametrize("options", [{"knowledge": "ful"}, {"stretch": 1.0}, {"num_byzantine": -1}])
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        FangTrimmedMean(**options)
    with pytest.raises(ConfigError):
        FangMedian(num_byzantine=1)
