"""The last layer, principal components, and flags by rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from defenses.features import global_head, head_updates, principal_components
from defenses.flags import assumed_malicious, highest


def test_head_is_weights_then_biases(make_updates: Callable, make_context: Callable, tiny_model: Any) -> None:
    layout = tiny_model.layout
    rows = np.random.default_rng(0).normal(size=(3, layout.dim)).astype(np.float32)
    updates = make_updates(rows, layout=layout, rows_per_block=2)
    ctx = make_context(updates, factory=tiny_model.factory, global_vector=tiny_model.vector)
    size = 10 * 16
    assert head_updates(updates, ctx).shape == (3, size + 10)
    np.testing.assert_array_equal(
        head_updates(updates, ctx), rows[:, -(size + 10) :]
    )  # the model's last two tensors
    np.testing.assert_array_equal(head_updates(updates, ctx, bias=False), rows[:, -(size + 10) : -10])
    np.testing.assert_array_equal(global_head(ctx), tiny_model.vector[-(size + 10) :])
    np.testing.assert_array_equal(global_head(ctx, bias=False), tiny_model.vector[-(size + 10) : -10])


def test_principal_components_are_those_of_scikit_learn() -> None:
    points = np.random.default_rng(0).normal(size=(6, 40)) * np.linspace(1, 3, 40) + 5
    ours = principal_components(points @ points.T)
    theirs = PCA(5).fit_transform(points)
    assert ours.shape == (6, 5)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-9)
    assert ((ours**3).sum(axis=0) > 0).all()
    order = np.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(
        principal_components((points @ points.T)[np.ix_(order, order)]), ours[order], atol=1e-9
    )


def test_principal_components_of_equal_rows_are_none() -> None:
    assert principal_components(np.ones((4, 4))).shape == (4, 0)


def test_highest_breaks_ties_by_the_next_score_then_by_index() -> None:
    scores, next_scores = np.array([1.0, 3.0, 1.0, 1.0]), np.array([0.0, 0.0, 5.0, 0.0])
    assert highest(2, scores).tolist() == [True, True, False, False]
    assert highest(2, scores, next_scores).tolist() == [False, True, True, False]
    assert highest(0, scores).tolist() == [False] * 4


def test_assumed_malicious() -> None:
    assert [assumed_malicious(None, count) for count in (1, 2, 3, 50)] == [0, 0, 1, 24]
    assert [assumed_malicious(20, count) for count in (50, 21, 5, 1)] == [20, 20, 4, 0]
