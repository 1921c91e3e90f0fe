"""FAA-DL's one-class SVM against scikit-learn on the standardised matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from defenses.faa_dl import FAADL, one_class_decision, standardised_gram
from raysim.errors import ConfigError


def matrix(count: int, dim: int = 30) -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(count, dim)) * np.linspace(0.5, 2, count)[:, None] + 1
    rows[:, 3] = 4.0  # constant: scaled to zero, but still a feature
    return rows.astype(np.float32)


def test_standardised_gram_by_hand() -> None:
    # columns (-1, 1), constant, (1, -1) after scaling
    assert standardised_gram(np.array([[1, 7, 9], [3, 7, 1]], np.float32)).tolist() == [[2, -2], [-2, 2]]


@pytest.mark.parametrize("nu", [0.5, 0.2])
def test_decision_is_scikit_learns_on_standardised_rows(nu: float) -> None:
    rows = matrix(12)
    scaled = StandardScaler().fit_transform(rows.astype(np.float64))
    machine = OneClassSVM(kernel="rbf", gamma="scale", nu=nu, tol=1e-10).fit(scaled)
    ours = one_class_decision(standardised_gram(rows), nu)
    np.testing.assert_allclose(ours, machine.decision_function(scaled), atol=1e-7)


def test_margin_decides_about_clients_on_it(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    rows = matrix(12)
    decision = one_class_decision(standardised_gram(rows), 0.5)
    on_margin = np.abs(decision) < 1e-7
    assert on_margin.any()
    updates = make_updates(rows, rows_per_block=5)
    strict, _ = judge(FAADL(), {}, updates, make_context(updates))
    lenient, _ = judge(FAADL(margin="accept"), {}, updates, make_context(updates))
    assert strict.flagged.tolist() == ((decision < 0) | on_margin).tolist()
    assert lenient.flagged.tolist() == ((decision < 0) & ~on_margin).tolist()
    assert lenient.flagged.mean() <= 0.5
    np.testing.assert_allclose(strict.aggregate, rows[~strict.flagged].mean(axis=0), rtol=1e-5)


def test_flags_about_three_of_four_without_an_attack(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    shares = []
    for seed in range(5):
        draw = np.random.default_rng(seed)
        rows = draw.normal(size=(24, 400)) * draw.uniform(0.5, 2, (24, 1))
        updates = make_updates(rows)
        shares.append(judge(FAADL(), {}, updates, make_context(updates))[0].flagged.mean())
    assert 0.6 < np.mean(shares) < 0.9  # LayerCAM-AE's tables imply 0.75


@pytest.mark.parametrize("rows", [np.ones((5, 3)), np.zeros((4, 3)), np.eye(3)[:2], np.eye(3)[:1]])
def test_nothing_to_tell_apart_accepts_all(
    make_updates: Callable, make_context: Callable, rows: np.ndarray, judge: Callable
) -> None:
    updates = make_updates(rows)
    verdict, _ = judge(FAADL(), {}, updates, make_context(updates))
    assert not verdict.flagged.any()
    np.testing.assert_allclose(verdict.aggregate, rows.mean(axis=0))


@pytest.mark.parametrize("wrong", [{"nu": 0.0}, {"nu": 1.5}, {"margin": "drop"}])
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FAADL(**wrong)
