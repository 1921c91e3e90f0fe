import numpy as np
import pytest

from attacks.alie_optimised import OptimisedALIE
from attacks.ipm_optimised import OptimisedIPM
from attacks.line_search import line_search
from defenses.trimmed_mean import TrimmedMean
from raysim.errors import ConfigError
from tests.attacks.crafting import craft, tilings

ROWS = np.array([[9, 9], [1, 4], [2, 4], [9, 9], [3, 4], [6, 4]], np.float32)
"""Benign rows 1, 2, 4, 5: mean (3, 4)."""


def test_steps_double_while_they_gain_then_shrink():
    tried = []

    def value(x: float) -> float:
        tried.append(x)
        return -abs(x - 32.0)

    # 10 and 30 gain; 70 does not, so that the step of 40 is halved again and again from there: 50, 40, 35, 32.5.
    assert line_search(value, 0.0, 10.0, 8, 0.5) == (32.5, -0.5)
    assert tried == [0, 10, 30, 70, 50, 40, 35, 32.5]


def test_against_a_mean_epsilon_grows_with_every_step():
    # 2 of 6 clients: |mean - mu| = 2 / 6 |-epsilon mu - mu|, which grows with epsilon: 0, 10, 30, 70, 150.
    crafted, said = craft(OptimisedIPM(rule=("fedavg",), evaluations=5), ROWS, [0, 3])
    assert said["factor"] == 150.0
    np.testing.assert_allclose(crafted, [[-450, -600]] * 2, rtol=1e-6)


def test_against_a_trimmed_mean_what_is_beyond_the_benign_gains_nothing():
    # Two of (1, 2, 3, 6) and x, x are trimmed on either side: (2 + 3) / 2 for x outside, in the first column.
    attack = OptimisedALIE(rule=("trimmed_mean,trim=2",), evaluations=12, ddof=0)
    crafted, said = craft(attack, ROWS, [0, 3])
    deviation = np.sqrt(3.5)
    np.testing.assert_allclose(crafted[0], [3 + said["factor"] * deviation, 4], rtol=1e-6)
    values = np.sort([1, 2, 3, 6, *crafted[:, 0]])[2:4]
    assert said["distance"] == pytest.approx(abs(values.mean() - 3), rel=1e-6)


@pytest.mark.parametrize("attack", [OptimisedALIE, OptimisedIPM])
def test_the_factor_found_beats_others_it_tried(attack):
    rows = np.random.default_rng(0).normal(1.0, 1.0, (12, 40)).astype(np.float32)
    crafted, said = craft(attack(rule=("trimmed_mean,trim=3",)), rows, [0, 5, 7])
    benign = np.delete(rows, [0, 5, 7], axis=0)

    def distance(row: np.ndarray) -> float:
        ordered = np.sort(np.concatenate([benign, np.repeat(row[None], 3, axis=0)]), axis=0)
        return float(np.linalg.norm(ordered[3:-3].mean(axis=0) - benign.mean(axis=0)))

    assert said["distance"] == pytest.approx(distance(crafted[0]), rel=1e-5)
    assert said["distance"] >= distance(benign.mean(axis=0))


def test_bytes_do_not_depend_on_tiling():
    rows = np.random.default_rng(1).normal(size=(9, 31)).astype(np.float32)
    attack = OptimisedALIE(rule=("clip_norm", "krum,num_byzantine=2"), evaluations=6)
    assert len({craft(attack, rows, [2, 3, 7], **cut)[0].tobytes() for cut in tilings(31)}) == 1


@pytest.mark.parametrize(
    ("name", "attack"),
    [("Optimal_ALittleIsEnough", OptimisedALIE), ("Optimal_InnerProductManipulation", OptimisedIPM)],
)
def test_against_byzfl(byzfl_attacks, name, attack):
    rows = np.random.default_rng(2).normal(0.5, 1.0, (12, 50)).astype(np.float32)
    crafted, _ = craft(attack(rule=("trimmed_mean,trim=3",)), rows, [0, 5, 7])
    benign = np.delete(rows, [0, 5, 7], axis=0).astype(np.float64)
    peer = getattr(byzfl_attacks, name)(byzfl_attacks.TrMean(3), pre_agg_list=[], f=3)
    np.testing.assert_allclose(crafted[0], peer(benign), rtol=1e-4, atol=1e-5)


def test_a_round_without_benign_clients_crafts_nothing():
    assert craft(OptimisedALIE(), ROWS, list(range(6))) == (None, {})


def test_the_rule_is_made_once_and_chained():
    assert OptimisedALIE(rule=("trimmed_mean,trim=3",)).known_rule == TrimmedMean(trim=3)
    assert len(OptimisedALIE(rule=("clip_norm", "median")).known_rule.steps) == 2


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ((), "must name a rule"),
        (("trimed_mean",), "trimmed_mean"),
        (("fltrust",), "must work with updates alone"),
        (("oracle",), "must work with updates alone"),
        (("krum,num_byzantine=-1",), "at least 0"),
    ],
)
def test_impossible_rules_are_refused(rule, reason):
    with pytest.raises(ConfigError, match=reason):
        OptimisedIPM(rule=rule)
