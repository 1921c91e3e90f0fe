"""The isolation forest against scikit-learn's, on the last layer and on principal components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from defenses.isolation_forest import IsolationForestFilter, isolation_scores
from raysim.context import Setting
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout

LAYOUT = Layout(
    (Entry("body", (30,), 0, 30), Entry("head.weight", (1, 3), 30, 33), Entry("head.bias", (1,), 33, 34))
)


def outlying(count: int = 12) -> np.ndarray:
    """Rows [12, 34] of which number 4 is far away in the last layer, number 7 elsewhere."""
    rows = np.random.default_rng(0).normal(size=(count, 34)).astype(np.float32)
    rows[4, 30:] += 8
    rows[7, :30] += 8
    return rows


def test_scores_are_scikit_learns() -> None:
    points = outlying()
    forest = IsolationForest(n_estimators=20, max_samples=12, random_state=3).fit(points)
    np.testing.assert_array_equal(isolation_scores(points, 20, 3), -forest.score_samples(points))
    assert isolation_scores(np.ones((4, 2)), 20, 3).tolist() == [0.5] * 4


@pytest.mark.parametrize("features", ["head", "components"])
def test_flags_by_rank_or_by_threshold(
    make_updates: Callable, make_context: Callable, tiny_model: Any, features: Any, judge: Callable
) -> None:
    updates = make_updates(outlying(), layout=LAYOUT, rows_per_block=5)
    ctx = make_context(updates, factory=tiny_model.factory)
    ranked, _ = judge(IsolationForestFilter(features=features, num_byzantine=2), {}, updates, ctx)
    assert ranked.flagged.sum() == 2
    assert ranked.scores[ranked.flagged].min() >= ranked.scores[~ranked.flagged].max()
    middle = float(np.median(ranked.scores))
    above, _ = judge(IsolationForestFilter(features=features, threshold=middle), {}, updates, ctx)
    np.testing.assert_array_equal(above.scores, ranked.scores)
    assert above.flagged.tolist() == (above.scores > middle).tolist()
    assert 0 < above.flagged.sum() < 12


def test_finds_what_is_far_in_the_last_layer(
    make_updates: Callable, make_context: Callable, tiny_model: Any, judge: Callable
) -> None:
    updates = make_updates(outlying(), layout=LAYOUT)
    ctx = make_context(updates, factory=tiny_model.factory)
    verdict, _ = judge(IsolationForestFilter(num_byzantine=1), {}, updates, ctx)
    assert np.flatnonzero(verdict.flagged).tolist() == [4]


def test_order_of_clients_does_not_matter(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    rows = outlying()
    order = np.random.default_rng(1).permutation(12)
    defense = IsolationForestFilter(features="components")
    scores = []
    for matrix in (rows[order], rows):
        updates = make_updates(matrix)
        scores.append(judge(defense, {}, updates, make_context(updates))[0].scores)
    np.testing.assert_allclose(scores[0], scores[1][order], rtol=1e-6)


def test_small_rounds(make_updates: Callable, make_context: Callable, judge: Callable) -> None:
    for rows in (np.eye(3)[:1], np.eye(3)[:2], np.zeros((4, 3))):
        updates = make_updates(rows)
        verdict, _ = judge(IsolationForestFilter(features="components"), {}, updates, make_context(updates))
        assert not verdict.flagged.any()
    updates = make_updates(np.arange(12).reshape(4, 3) ** 2)
    verdict, _ = judge(
        IsolationForestFilter(features="components", num_byzantine=9), {}, updates, make_context(updates)
    )
    assert verdict.flagged.sum() == 3


@pytest.mark.parametrize(
    "wrong", [{"features": "all"}, {"num_trees": 0}, {"threshold": 1.0}, {"num_byzantine": -1}]
)
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        IsolationForestFilter(**wrong)


def test_refuses_to_remove_everybody() -> None:
    setting = Setting(population=10, cohort=4, num_malicious=1, rounds=1, num_classes=2)
    IsolationForestFilter(num_byzantine=3).check(setting)
    with pytest.raises(ConfigError, match="nearest valid: 3"):
        IsolationForestFilter(num_byzantine=4).check(setting)
