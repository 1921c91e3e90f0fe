"""PDRR: correlations and counts by hand and by brute force, and what it removes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.pdrr import PDRR, correlations, median_counts, sign_sums, trimmed_counts
from raysim.context import Setting
from raysim.errors import ConfigError


def shared_places(columns: np.ndarray, places: list[int], mask: np.ndarray) -> np.ndarray:
    """Brute force: each sorted place counts 1, shared by the rows that hold its value."""
    counts = np.zeros(len(columns))
    for column in columns.T[mask]:
        for value in np.sort(column)[places]:
            counts[column == value] += 1 / (column == value).sum()
    return counts


@pytest.fixture
def judge(make_updates: Callable, make_context: Callable) -> Callable:
    def run(defense: PDRR, rows: Any, **options: Any) -> Any:
        updates = make_updates(rows, **options)
        verdict, state = defense.apply({}, updates, make_context(updates))
        assert state == {}
        return verdict

    return run


def krum_attack(seed: int, dim: int = 2000) -> np.ndarray:
    """30 independent Gaussian clients, and 20 in front within 1e-7 of a point across the mean (Fang et al.)."""
    draw = np.random.default_rng(seed)
    benign = draw.normal(0.02, 1.0, (30, dim)).astype(np.float32)
    point = -0.05 * np.sign(benign.mean(axis=0))
    return np.concatenate([point + draw.uniform(-1e-7, 1e-7, (20, dim)), benign])


def mean_attack(seed: int, dim: int = 2000) -> np.ndarray:
    """30 independent Gaussian clients, and 20 in front beyond their extremes, against the mean's direction."""
    draw = np.random.default_rng(seed)
    benign = draw.normal(0.02, 1.0, (30, dim)).astype(np.float32)
    against = np.where(benign.mean(axis=0) > 0, benign.min(axis=0), benign.max(axis=0))
    return np.concatenate([against * draw.uniform(1.0, 1.05, (20, dim)), benign])


ATTACKERS = np.arange(50) < 20


@pytest.mark.parametrize("q", [0.1, 0.5, 0.99])
def test_krum_flags_all_crafted_models_and_no_benign_one(judge: Callable, q: float) -> None:
    verdict = judge(PDRR(rule="krum", q=q, num_byzantine=20), krum_attack(0))
    np.testing.assert_array_equal(verdict.flagged, ATTACKERS)
    assert verdict.scores[:20].min() > 0.99
    assert verdict.scores[20:].max() < 0.1
    assert verdict.weights[20:].sum() == 1
    assert verdict.weights.max() == 1  # Krum again, on the rest


@pytest.mark.parametrize("settings", [{"rule": "trimmed_mean", "trim": 20}, {"rule": "median"}])
def test_counts_flag_all_crafted_models_and_no_benign_one(judge: Callable, settings: dict) -> None:
    rows = mean_attack(0)
    verdict = judge(PDRR(q=0.75 if settings["rule"] == "trimmed_mean" else 0.5, **settings), rows)
    np.testing.assert_array_equal(verdict.flagged, ATTACKERS)
    assert verdict.weights is None
    expected = np.median(rows[20:].astype(np.float32), axis=0)
    if settings["rule"] == "trimmed_mean":  # 20 - 20 removed: nothing is trimmed any more
        expected = rows[20:].mean(axis=0)
    np.testing.assert_allclose(verdict.aggregate, expected, atol=1e-6)


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean"])
def test_somebody_is_always_removed_even_without_an_attack(judge: Callable, rule: str) -> None:
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(11, 200))
        assert judge(PDRR(rule=rule, q=1.0), rows).flagged.sum() == 1


def test_correlation_by_hand(judge: Callable) -> None:
    # Krum (f = 0) chooses row 0, next to row 1. Signs: (1, 1, -1, 0), (1, 1, 0, 1), (-1, 1, -1, -1), (1, 1, 1, 1)
    rows: list[list[float]] = [[1, 1, -1, 0], [1, 1, 0, 0.5], [-5, 5, -5, -5], [9, 9, 9, 9]]
    verdict = judge(PDRR(rule="krum", num_byzantine=0, q=0.5), rows)
    signs = np.sign(rows)
    expected = [np.corrcoef(signs[0], signs[i])[0, 1] for i in range(3)]
    assert verdict.scores.tolist() == pytest.approx([*expected, 0.0])  # a constant row has no correlation
    assert verdict.scores[0] == 1
    assert verdict.flagged.tolist() == [s >= 0.5 for s in (*expected, 0.0)]


def test_sign_sums_with_a_tolerance() -> None:
    sums = sign_sums(np.array([[0.1, -2, 3], [-1, 1, 1]], np.float32), winner=1, tol=0.5)
    assert sums.tolist() == [[0, 0, 2, 3], [3, 1, 3, 3]]  # signs (0, -1, 1) and (-1, 1, 1)
    assert correlations(sums, 1).tolist() == pytest.approx([0, 1])


def test_trimmed_counts_by_hand() -> None:
    # columns: 1 2 3 4 5 | a mean of zero | ties for the lowest place | all equal
    columns = np.array([[1, -2, 1, 6], [2, -1, 1, 6], [3, 0, 1, 6], [4, 1, 2, 6], [5, 2, 3, 6]], np.float32)
    third, fifth = 1 / 3, 2 / 5
    counts = trimmed_counts(columns, trim=1, tol=0.0)
    expected = [1 + third + fifth, third + fifth, third + fifth, fifth, 2 + fifth]
    assert counts.tolist() == pytest.approx(expected)
    assert trimmed_counts(columns, trim=1, tol=1.5).tolist() == pytest.approx(
        [1 + fifth, fifth, fifth, fifth, 1 + fifth]
    )
    assert trimmed_counts(columns, trim=0, tol=0.0).tolist() == [0] * 5
    every = [2 + third + fifth, third + fifth, third + fifth, fifth, 3 + fifth]
    assert trimmed_counts(columns, trim=1, tol=-1.0).tolist() == pytest.approx(every)


def test_median_counts_by_hand() -> None:
    odd = np.array([[1, -3, 5, 2], [2, 0, 5, 2], [9, 4, 7, 2]], np.float32)
    assert median_counts(odd, tol=0.0).tolist() == pytest.approx([1 / 2 + 1 / 3, 1 + 1 / 2 + 1 / 3, 1 / 3])
    even = np.array([[1, 1], [2, 4], [3, 4], [9, 4]], np.float32)
    assert median_counts(even, tol=0.0).tolist() == pytest.approx([0, 1 + 2 / 3, 1 + 2 / 3, 2 / 3])
    assert median_counts(odd - 2, tol=-1.0).tolist() == pytest.approx(
        [1 / 2 + 1 / 3, 2 + 1 / 2 + 1 / 3, 1 / 3]
    )


@pytest.mark.parametrize(("counted", "scores"), [(False, [1, 0, 0, 0, 1]), (True, [0.5, 0, 0.5, 0, 1])])
def test_parameters_that_nothing_moved_count_where_asked(
    judge: Callable, counted: bool, scores: list
) -> None:
    # The first column's trimmed mean is 0; row 4 is trimmed in both, rows 0 and 2 in one each.
    columns = np.array([[0, 1], [-1, 2], [-2, 3], [1, 4], [2, 5]], np.float32)
    verdict = judge(PDRR(rule="trimmed_mean", trim=1, q=0.9, count_unmoved=counted), columns)
    assert verdict.scores.tolist() == scores
    assert verdict.flagged.tolist() == [score >= 0.9 for score in scores]


def test_counts_with_ties_in_the_order_of_clients_by_hand() -> None:
    # columns: 1 2 3 4 5 | a mean of zero | ties for the lowest place | all equal
    columns = np.array([[1, -2, 1, 6], [2, -1, 1, 6], [3, 0, 1, 6], [4, 1, 2, 6], [5, 2, 3, 6]], np.float32)
    counts = trimmed_counts(columns, trim=1, tol=0.0, first=True)
    assert counts.tolist() == [3, 0, 0, 0, 3]  # of the equal ones, the first is lowest and the last highest
    odd = np.array([[1, -3, 5, 2], [2, 0, 5, 2], [9, 4, 7, 2]], np.float32)
    assert median_counts(odd, tol=0.0, first=True).tolist() == [0, 3, 0]
    even = np.array([[1, 1], [2, 4], [3, 4], [9, 4]], np.float32)
    assert median_counts(even, tol=0.0, first=True).tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
def test_the_order_of_clients_matters_only_for_equal_values(judge: Callable, rule: str) -> None:
    rows = np.random.default_rng(4).normal(size=(8, 300))
    for values, same in ((rows, True), (rows.round(), False)):
        shared, first = judge(PDRR(rule=rule), values), judge(PDRR(rule=rule, ties="first"), values)
        assert np.array_equal(shared.scores, first.scores) == same


def test_what_is_assumed_after_removal_by_hand(judge: Callable) -> None:
    # One parameter; the two crafted clients are the two lowest, which trimming 2 of 7 takes, with 5 and 9.
    rows: list[list[float]] = [[-90], [-80], [1], [2], [4], [5], [9]]
    fewer = judge(PDRR(rule="trimmed_mean", trim=2, q=1.0), rows)
    assert fewer.flagged.tolist() == [True, True, False, False, False, True, True]
    assert fewer.aggregate.tolist() == pytest.approx([7 / 3])  # 1, 2, 4: nothing is trimmed any more
    same = judge(PDRR(rule="trimmed_mean", trim=2, q=1.0, after_removal="same"), rows)
    assert same.flagged.tolist() == fewer.flagged.tolist()
    assert same.aggregate.tolist() == [2]  # one on each side, the most that three bear


def test_krum_after_removal_by_hand(judge: Callable) -> None:
    # Six clients agree and are removed. Of the five left, at 9, 9.1, 12, 13 and 14 on a diagonal, 4 - 6 removed = 0
    # malicious ones leave three neighbours, to which 12 is nearest (1 + 4 + 8.41); two, the most that five bear,
    # leave one neighbour, and 9 is as near to it as 9.1.
    rows = [[-1.0, 1.0]] * 6 + [[place, place] for place in (9.0, 9.1, 12.0, 13.0, 14.0)]
    fewer = judge(PDRR(num_byzantine=4), rows)
    same = judge(PDRR(num_byzantine=4, after_removal="same"), rows)
    for verdict, winner in ((fewer, 8), (same, 6)):
        assert verdict.flagged.tolist() == [True] * 6 + [False] * 5
        assert verdict.weights.tolist() == [float(row == winner) for row in range(11)]
        assert verdict.aggregate.tolist() == rows[winner]


@pytest.mark.parametrize("count", [2, 3, 6, 7])
@pytest.mark.parametrize("whole_numbers", [False, True])
def test_counts_are_those_of_brute_force(count: int, whole_numbers: bool) -> None:
    draw = np.random.default_rng(count)
    columns = draw.normal(0, 1, (count, 2100))
    if whole_numbers:
        columns = np.round(columns)  # many ties
    columns = columns.astype(np.float32)
    places = sorted({(count - 1) // 2, count // 2})
    mask = np.sort(columns, axis=0)[places].sum(axis=0) != 0
    np.testing.assert_allclose(median_counts(columns, tol=0.0), shared_places(columns, places, mask))
    for trim in range(1, (count - 1) // 2 + 1):
        ordered = np.sort(columns, axis=0)
        mask = ordered[trim : count - trim].sum(axis=0, dtype=np.float64) != 0
        places = [*range(trim), *range(count - trim, count)]
        np.testing.assert_allclose(
            trimmed_counts(columns, trim=trim, tol=0.0), shared_places(columns, places, mask)
        )


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean", "median"])
def test_tiles_do_not_matter(judge: Callable, rule: str) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 9000))
    whole = judge(PDRR(rule=rule), rows)
    for options in ({"rows_per_block": 2}, {"rows_per_block": 3, "bounds": (0, 4096, rows.shape[1])}):
        other = judge(PDRR(rule=rule), rows, **options)
        assert other.aggregate.tobytes() == whole.aggregate.tobytes()
        assert other.scores.tobytes() == whole.scores.tobytes()


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean", "median"])
def test_degenerate_rounds(judge: Callable, rule: str) -> None:
    zero = judge(PDRR(rule=rule), np.zeros((5, 3)))
    assert not zero.flagged.any()  # no parameter moved: nothing to tell clients apart by
    one = judge(PDRR(rule=rule), [[1, -2, 3]])
    assert not one.flagged.any()
    assert one.aggregate.tolist() == [1, -2, 3]
    same = judge(PDRR(rule=rule), [[1, -2, 3]] * 7)
    assert same.flagged.all() == (rule != "median")
    assert same.aggregate.tolist() == ([1, -2, 3] if rule == "median" else [0, 0, 0])
    for count in (2, 3):
        verdict = judge(
            PDRR(rule=rule, num_byzantine=4), np.random.default_rng(count).normal(size=(count, 6))
        )
        assert np.isfinite(verdict.aggregate).all()


def test_trim_falls_back_on_what_is_assumed() -> None:
    assert [PDRR(rule="trimmed_mean").assumed_trim(count) for count in (50, 7, 3, 2)] == [10, 1, 0, 0]
    assert PDRR(rule="trimmed_mean", num_byzantine=4).assumed_trim(50) == 4
    assert PDRR(rule="trimmed_mean", num_byzantine=4, trim=6).assumed_trim(10) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"rule": "fedavg"},
        {"q": 1.1},
        {"tol": -1.0},
        {"trim": -1},
        {"num_byzantine": -1},
        {"ties": "last"},
        {"after_removal": "none"},
        {"count_unmoved": True},
    ],
)
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PDRR(**wrong)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"rule": "krum", "num_byzantine": 4}, "num_byzantine"),
        ({"rule": "trimmed_mean", "trim": 5}, "trim"),
        ({"rule": "trimmed_mean", "num_byzantine": 5}, "num_byzantine"),
    ],
)
def test_refuses_what_the_cohort_cannot_bear(settings: dict, key: str) -> None:
    setting = Setting(population=20, cohort=10, num_malicious=2, rounds=1, num_classes=2)
    with pytest.raises(ConfigError, match=key):
        PDRR(**settings).check(setting)
    PDRR(**{**settings, key: settings[key] - 1}).check(setting)
