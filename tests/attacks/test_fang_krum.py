import numpy as np
import pytest

from attacks.fang_krum import FangKrum
from attacks.krum_trial import KrumTrial
from defenses.krum import Krum
from raysim.attack import Visibility
from raysim.context import Setting
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from tests.attacks.crafting import craft, layout_of, round_of, tilings


def krum(rows, neighbours):
    """The index Krum picks, by its definition."""
    rows = np.asarray(rows, np.float64)
    scores = []
    for i, row in enumerate(rows):
        others = sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)
        scores.append(sum(others[:neighbours]))
    return int(np.argmin(scores))


def square_distances_of(rows):
    rows = np.asarray(rows, np.float64)
    return ((rows[:, None] - rows[None]) ** 2).sum(2)


def cohort(seed, count=14, dim=60, shift=0.02):
    """Updates with a common direction much smaller than their spread, and three coordinates that never move."""
    rows = np.random.default_rng(seed).normal(shift, 1.0, size=(count, dim)).astype(np.float32)
    rows[:, [5, 17, 40]] = 0
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_the_trial_agrees_with_krum_on_the_matrix(seed):
    generator = np.random.default_rng(seed)
    rows = generator.normal(0.3, 1.0, size=(7, 12))
    sign = np.sign(generator.normal(size=12))
    trial = KrumTrial.of(square_distances_of(rows), (rows**2).sum(1), rows @ sign, float(sign @ sign))
    seen = set()
    for copies in (1, 2, 5):
        for neighbours in range(1, len(rows) + copies):
            for step in (0.0, 0.1, 0.4, 1.0, 3.0):
                joint = np.concatenate([[-step * sign] * copies, rows])
                expected = krum(joint, neighbours) < copies
                assert trial.picks_crafted(step, copies, neighbours, np.zeros(7, bool)) == expected
                seen.add(expected)
    assert seen == {True, False}


def test_a_tie_goes_to_the_lower_client_index():
    distances = np.zeros((2, 2))
    trial = KrumTrial.of(distances, np.zeros(2), np.zeros(2), 0.0)
    assert trial.picks_crafted(1.0, 1, 1, np.array([False, False]))
    assert not trial.picks_crafted(1.0, 1, 1, np.array([True, False]))


@pytest.mark.parametrize("seed", range(3))
def test_full_knowledge_makes_krum_pick_a_crafted_model_and_twice_the_step_does_not(seed):
    rows, attackers = cohort(seed), [0, 3, 4, 9]
    crafted, said = craft(FangKrum(epsilon=1e-4), rows, attackers)
    assert not said["failed"]
    neighbours = len(rows) - 4 - 2
    joint = rows.copy()
    joint[attackers] = crafted
    assert krum(joint, neighbours) in attackers

    sign = np.sign(rows[krum(rows, neighbours)])
    np.testing.assert_array_equal(crafted[0], (-said["lambda"] * sign).astype(np.float32))
    np.testing.assert_array_equal(crafted[0, [5, 17, 40]], 0)
    joint[attackers] = -2 * said["lambda"] * sign
    assert 2 * said["lambda"] > said["lambda_0"] or krum(joint, neighbours) not in attackers
    gaps = np.linalg.norm(crafted[1:] - crafted[0], axis=1)
    assert (gaps <= 1e-4 * 1.001).all()
    assert len(np.unique(crafted, axis=0)) == 4


def test_the_registered_krum_picks_a_crafted_model():
    rows, attackers = cohort(7), [0, 3, 4, 9]
    view, context = round_of(rows, attackers)
    assert view.benign is not None
    crafted, _ = FangKrum().craft({}, view, context)
    assert isinstance(crafted, Updates)
    verdict, _ = Krum(num_byzantine=4).apply({}, view.benign.replace_rows(crafted), context)
    assert verdict.weights is not None
    assert np.flatnonzero(verdict.weights).tolist()[0] in attackers


def test_the_search_starts_at_the_papers_bound():
    rows, attackers = cohort(1), [0, 3, 4, 9]
    _, said = craft(FangKrum(), rows, attackers)
    benign = np.delete(rows, attackers, axis=0).astype(np.float64)
    nearest = np.sort(square_distances_of(benign), axis=1)[:, 1 : 14 - 4 - 2 + 1].sum(1).min()
    bound = np.sqrt(nearest / ((14 - 2 * 4 - 1) * 60)) + np.linalg.norm(benign, axis=1).max() / np.sqrt(60)
    assert said["lambda_0"] == pytest.approx(bound, rel=1e-9)
    assert said["lambda"] == pytest.approx(bound * 0.5 ** (said["trials"] - 1), rel=1e-12)


def test_refinements_tighten_the_step_between_success_and_failure():
    rows, attackers = cohort(0), [0, 3, 4, 9]
    _, plain = craft(FangKrum(), rows, attackers)
    crafted, refined = craft(FangKrum(refinements=6, epsilon=0.0), rows, attackers)
    assert plain["lambda"] < refined["lambda"] < 2 * plain["lambda"]
    joint = rows.copy()
    joint[attackers] = crafted
    assert krum(joint, 8) in attackers
    joint[attackers] = crafted * (1 + 2**-5)
    assert krum(joint, 8) not in attackers


def test_a_failed_search_submits_honest_models_and_says_so():
    rows = np.random.default_rng(0).normal(5.0, 0.01, size=(14, 30)).astype(np.float32)
    crafted, said = craft(FangKrum(), rows, [0, 1, 2])
    assert crafted is None
    assert said["failed"]
    assert said["reason"] == "no lambda was accepted"
    assert said["trials"] > 5
    crafted, said = craft(FangKrum(), rows[:6], [0, 1, 2])
    assert crafted is None
    assert "smaller than" in said["reason"]
    crafted, said = craft(FangKrum(), np.zeros((9, 4), np.float32), [0, 1])
    assert crafted is None
    assert said["trials"] == 0


def test_partial_knowledge_uses_the_attackers_own_models_and_as_few_copies_as_krum_needs():
    rows, attackers = cohort(2, shift=0.3), [1, 4, 6, 8, 11]
    attack = FangKrum(knowledge="partial", epsilon=1e-6)
    assert attack.visibility is Visibility.COLLUDING
    crafted, said = craft(attack, rows, attackers)
    assert not said["failed"]
    own = rows[attackers].astype(np.float64)
    sign, copies = np.sign(own.sum(0)), said["copies"]
    np.testing.assert_array_equal(crafted[0], (-said["lambda"] * sign).astype(np.float32))
    np.testing.assert_array_equal(crafted[0, [5, 17, 40]], 0)
    neighbours = len(own) - 2  # of c own models and r copies with f = r
    nearest = np.sort(square_distances_of(own), axis=1)[:, 1 : neighbours + 1].sum(1).min()
    bound = np.sqrt(nearest / (neighbours * 60)) + np.linalg.norm(own, axis=1).max() / np.sqrt(60)
    assert said["lambda_0"] == pytest.approx(bound, rel=1e-9)

    def picks(step, count):
        return krum(np.concatenate([[-step * sign] * count, own]), neighbours) < count

    assert picks(said["lambda"], copies)
    steps = said["lambda_0"] * 0.5 ** np.arange(40)
    tried = [(step, r) for r in range(1, copies + 1) for step in steps[steps >= 1e-5]]
    tried = tried[: tried.index((said["lambda"], copies)) + 1]
    assert len(tried) == said["trials"]
    assert not any(picks(*attempt) for attempt in tried[:-1])
    assert craft(attack, rows, [2, 5])[1]["failed"]


def test_the_assumed_number_is_an_option():
    rows, attackers = cohort(5), [0, 3, 4]
    crafted, said = craft(FangKrum(num_byzantine=5, epsilon=0.0), rows, attackers)
    joint = rows.copy()
    joint[attackers] = crafted
    assert not said["failed"]
    assert krum(joint, 14 - 5 - 2) in attackers


@pytest.mark.parametrize("knowledge", ["full", "partial"])
def test_bytes_do_not_depend_on_tiling_and_buffers_stay_own(knowledge):
    rows, layout = cohort(3), layout_of(57, buffers=3)
    attack = FangKrum(knowledge=knowledge)
    made = [craft(attack, rows, [0, 3, 4, 9], layout=layout, **cut)[0] for cut in tilings(57)]
    assert made[0].tobytes() == made[1].tobytes()
    np.testing.assert_allclose(made[2], made[0], rtol=1e-6)
    np.testing.assert_array_equal(made[0][:, 57:], rows[[0, 3, 4, 9], 57:])


def test_settings_in_which_no_round_can_succeed_are_refused():
    setting = Setting(population=9, cohort=9, num_malicious=4, rounds=1, num_classes=2)
    with pytest.raises(ConfigError, match="at least 10 clients"):
        FangKrum().check(setting)
    FangKrum(num_byzantine=3).check(setting)
    FangKrum(knowledge="partial").check(setting)
    few = Setting(population=30, cohort=10, num_malicious=2, rounds=1, num_classes=2)
    FangKrum().check(few)
    with pytest.raises(ConfigError, match="at least 3 attackers"):
        FangKrum(knowledge="partial").check(few)


@pytest.mark.parametrize(
    "options",
    [
        {"knowledge": "ful"},
        {"num_byzantine": -1},
        {"lambda_min": 0.0},
        {"epsilon": -1.0},
        {"refinements": -1},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ConfigError):
        FangKrum(**options)
