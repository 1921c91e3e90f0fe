from __future__ import annotations

import numpy as np
import pytest

from defenses.krum import Krum
from raysim.context import Setting
from raysim.errors import ConfigError


def scores_by_definition(rows: np.ndarray, num_byzantine: int) -> list[float]:
    """For every row, the sum of the K - f - 2 smallest squared distances to the other rows."""
    scores = []
    for i, row in enumerate(rows):
        others = sorted(sum((a - b) ** 2 for a, b in zip(row, other, strict=True))
                        for j, other in enumerate(rows) if j != i)  # fmt: skip
        scores.append(sum(others[: len(rows) - num_byzantine - 2]))
    return scores


def test_by_hand(apply_once):
    # On a line, f = 1: each row is scored by its 2 nearest of 4 others.
    rows = [[0.0], [1.0], [3.0], [4.0], [50.0]]
    verdict = apply_once(Krum(num_byzantine=1), rows)
    assert verdict.scores.tolist() == [1 + 9, 1 + 4, 4 + 1, 1 + 9, 46**2 + 47**2]
    assert verdict.weights.tolist() == [0, 1, 0, 0, 0], "of equal scores the first wins"
    assert verdict.aggregate.tolist() == [1.0]
    assert verdict.flagged.tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("seed", range(5))
def test_against_the_definition(apply_once, seed):
    rows = np.random.default_rng(seed).standard_normal((7, 6)).astype(np.float32)
    verdict = apply_once(Krum(num_byzantine=2), rows)
    expected = scores_by_definition(rows.astype(np.float64), 2)
    np.testing.assert_allclose(verdict.scores, expected, rtol=1e-12)
    winner = int(np.argmin(expected))
    assert verdict.aggregate.tobytes() == rows[winner].tobytes()
    assert np.flatnonzero(verdict.flagged).tolist() == sorted(np.argsort(expected)[-2:].tolist())


def test_against_byzfl_where_the_definitions_agree(apply_once, byzfl):
    # ByzFL sums over K - f' - 1 neighbours: with f' = f + 1 these are the K - f - 2 of the paper.
    rows = np.random.default_rng(8).standard_normal((11, 40)).astype(np.float32)
    verdict = apply_once(Krum(num_byzantine=3), rows)
    assert verdict.aggregate.tobytes() == byzfl.Krum(4)(rows).tobytes()


# -3, 0, 3 and 100, 100.5, 105.5: 0 has the nearest two at 3 and 3, 100.5 at 0.5 and 5.
TWO_GROUPS = [[-3.0], [0.0], [3.0], [100.0], [100.5], [105.5]]


@pytest.mark.parametrize(
    ("squared", "scores", "winner"),
    [(True, [45, 18, 45, 30.5, 25.25, 55.25], 1), (False, [9, 6, 9, 6, 5.5, 10.5], 4)],
)
def test_plain_distances_by_hand(apply_once, squared, scores, winner):
    verdict = apply_once(Krum(num_byzantine=2, squared=squared), TWO_GROUPS)
    assert verdict.scores.tolist() == scores
    assert np.flatnonzero(verdict.weights).tolist() == [winner]


@pytest.mark.parametrize(
    ("neighbours", "scores"),
    [(1, [1, 1, 4, 36]), (2, [10, 5, 13, 36 + 64]), (3, [91, 69, 49, 36 + 64 + 81]), (4, [91, 69, 49, 181])],
)
def test_neighbours_by_hand(apply_once, neighbours, scores):
    verdict = apply_once(Krum(num_byzantine=0, neighbours=neighbours), [[0.0], [1.0], [3.0], [9.0]])
    assert verdict.scores.tolist() == scores


def test_neighbours_as_byzfl_counts_them(apply_once, byzfl):
    rows = np.random.default_rng(12).standard_normal((11, 40)).astype(np.float32)
    verdict = apply_once(Krum(num_byzantine=3, neighbours=11 - 3 - 1), rows)
    assert verdict.aggregate.tobytes() == byzfl.Krum(3)(rows).tobytes()


def test_none_assumes_the_most_that_is_tolerated(apply_once):
    rows = np.random.default_rng(1).standard_normal((9, 4))
    assert apply_once(Krum(), rows).flagged.sum() == 3


def test_near_duplicates_are_told_apart(apply_once):
    # Four rows of norm 10 that differ by 0, 1, 2 and 4 units in the last place, of which the third is the most
    # central; f = 2, so that each is scored by the three others.
    step = np.spacing(np.float32(10))
    near = np.array([[10 + number * step, 0, 0] for number in (0, 1, 2, 4)], np.float32)
    far = np.array([[-10, 0, 0], [0, 10, 0], [0, -10, 0]], np.float32)
    verdict = apply_once(Krum(num_byzantine=2), np.concatenate([far, near]))
    np.testing.assert_allclose(verdict.scores[3:] / float(step) ** 2, [21, 11, 9, 29], rtol=1e-9)
    assert verdict.weights.tolist() == [0, 0, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_rows_return_the_first(apply_once, count):
    for rule in (Krum(num_byzantine=4), Krum(num_byzantine=4, squared=False, neighbours=3)):
        verdict = apply_once(rule, [[1.0, 2.0], [5.0, 5.0]][:count])
        assert verdict.aggregate.tolist() == [1.0, 2.0]
        assert not verdict.flagged.any()


def test_fewer_rows_than_planned_assume_fewer_attackers(apply_once):
    verdict = apply_once(Krum(num_byzantine=4), [[0.0], [1.0], [1.5], [9.0]])
    assert verdict.scores.tolist() == [1.0, 0.25, 0.25, 7.5**2], "f = K - 3 = 1 leaves one neighbour"
    assert verdict.flagged.tolist() == [False, False, False, True]


def setting(cohort: int) -> Setting:
    return Setting(population=cohort, cohort=cohort, num_malicious=0, rounds=1, num_classes=2)


def test_refuses_more_attackers_than_it_tolerates():
    Krum(num_byzantine=3).check(setting(9))
    with pytest.raises(ConfigError) as caught:
        Krum(num_byzantine=4).check(setting(9))
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("num_byzantine", 4, 3)
    with pytest.raises(ConfigError, match="at least 0"):
        Krum(num_byzantine=-1)


def test_refuses_no_neighbours():
    with pytest.raises(ConfigError) as caught:
        Krum(neighbours=0)
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("neighbours", 0, 1)
