"""FLDetector: the Hessian-vector product, the scores, and what it remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.fldetector import FLDetector, lbfgs_product
from raysim.errors import ConfigError


def recursive_bfgs(steps: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """The dense BFGS matrix after one update per pair, from the scaled identity."""
    scale = (changes[-1] @ steps[-1]) / (steps[-1] @ steps[-1])
    matrix = scale * np.eye(steps.shape[1])
    for s, y in zip(steps, changes, strict=True):
        matrix += np.outer(y, y) / (y @ s) - np.outer(matrix @ s, matrix @ s) / (s @ matrix @ s)
    return matrix


def test_lbfgs_product_is_that_of_the_dense_recursion() -> None:
    draw = np.random.default_rng(0)
    hessian = np.diag(np.linspace(1, 3, 8)) + 0.3
    steps = draw.normal(size=(3, 8)).astype(np.float32)
    changes = (steps @ hessian).astype(np.float32)
    vector = draw.normal(size=8).astype(np.float32)
    dense = recursive_bfgs(steps.astype(np.float64), changes.astype(np.float64))
    np.testing.assert_allclose(lbfgs_product(steps, changes, vector), dense @ vector, rtol=1e-5)
    np.testing.assert_allclose(lbfgs_product(steps, -changes, vector), -dense @ vector, rtol=1e-5)
    np.testing.assert_allclose(
        lbfgs_product(steps, changes, steps[-1]), changes[-1], rtol=1e-4
    )  # secant equation


def test_lbfgs_product_of_no_or_repeated_steps_is_finite() -> None:
    vector = np.arange(4, dtype=np.float32)
    assert (
        lbfgs_product(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32), vector).tolist() == [0] * 4
    )
    same = np.ones((3, 4), np.float32)
    np.testing.assert_allclose(lbfgs_product(same, 2 * same, same[0]), 2 * same[0], rtol=1e-5)


def last_updates(state: dict[str, Any]) -> dict[int, np.ndarray]:
    """What is remembered of every client, by id."""
    found = {}
    for layer in state["layers"]:
        whole = np.concatenate([tile.value for tile in layer["shards"]], axis=1)
        found |= dict(zip(layer["clients"].tolist(), whole[layer["rows"]], strict=True))
    return found


class Training:
    """Clients on quadratics with slightly different minima; attackers send noise of the same size."""

    def __init__(
        self, defense: FLDetector, make_updates: Callable, make_context: Callable, attackers: int
    ) -> None:
        self.defense, self.make_updates, self.make_context = defense, make_updates, make_context
        self.draw = np.random.default_rng(0)
        self.hessian = np.linspace(0.2, 0.6, 20)
        self.minima = 1 + 0.05 * self.draw.normal(size=(12, 20))
        self.attackers = attackers
        self.parameters = np.zeros(20, np.float32)
        self.state: dict[str, Any] = {}

    def round(self, number: int, cohort: np.ndarray) -> Any:
        rows = 0.5 * self.hessian * (self.minima[cohort] - self.parameters)
        bad = cohort < self.attackers
        rows[bad] = self.draw.normal(size=(bad.sum(), 20)) * np.abs(rows).mean()
        updates = self.make_updates(rows, client_ids=cohort)
        ctx = self.make_context(updates, round=number, rounds=20, global_vector=self.parameters)
        self.state = self.state or self.defense.init(ctx)
        verdict, self.state = self.defense.apply(self.state, updates, ctx)
        self.parameters = self.parameters + verdict.aggregate
        return verdict


def test_catches_inconsistent_clients_for_good(make_updates: Callable, make_context: Callable) -> None:
    training = Training(FLDetector(window=4, burn_in=5), make_updates, make_context, attackers=3)
    verdicts = [training.round(number, np.arange(12)) for number in range(8)]
    assert not any(verdict.flagged.any() for verdict in verdicts[:5])
    for verdict in verdicts[5:]:
        assert np.flatnonzero(verdict.flagged).tolist() == [0, 1, 2]
        assert not verdict.weights[:3].any()
    assert training.state["removed"].tolist() == [0, 1, 2]
    assert training.state["rounds"] == 2  # it started over after the removal
    assert np.isinf(verdicts[-1].scores[:3]).all()


def test_not_permanent_leaves_out_for_the_round_only(make_updates: Callable, make_context: Callable) -> None:
    defense = FLDetector(window=4, burn_in=5, permanent=False)
    training = Training(defense, make_updates, make_context, attackers=3)
    verdicts = [training.round(number, np.arange(12)) for number in range(7)]
    assert np.flatnonzero(verdicts[-1].flagged).tolist() == [0, 1, 2]
    assert not len(training.state["removed"])
    assert training.state["rounds"] == 7


def test_without_attackers_nobody_is_caught(make_updates: Callable, make_context: Callable) -> None:
    training = Training(FLDetector(window=4, burn_in=5), make_updates, make_context, attackers=0)
    assert not any(training.round(number, np.arange(12)).flagged.any() for number in range(8))


def test_scores_by_hand(make_updates: Callable, make_context: Callable) -> None:
    """Three parameters, two clients; no window yet, so the prediction is the last update itself."""
    defense: Any = FLDetector()
    first = make_updates([[1, 0, 0], [0, 1, 0]])
    ctx = make_context(first, round=0)
    verdict, state = defense.apply(defense.init(ctx), first, ctx)
    assert verdict.scores.tolist() == [0, 0]
    assert verdict.aggregate.tolist() == [0.5, 0.5, 0]
    second = make_updates([[1, 3, 0], [0, 1, 1]])  # moved by 3 and by 1
    moved = np.array([0.5, 0.5, 0], np.float32)
    verdict, state = defense.apply(state, second, make_context(second, round=1, global_vector=moved))
    assert verdict.scores.tolist() == [0.75, 0.25]
    np.testing.assert_array_equal(state["steps"], [moved])
    np.testing.assert_array_equal(state["changes"], [[0, 1.5, 0.5]])
    # third round, the same step again: the secant pair predicts a change of (0, 1.5, 0.5) for everybody
    third = make_updates([[1, 4.5, 0.5], [0, 2.5, 3.5]])  # no error, and an error of 2
    verdict, state = defense.apply(state, third, make_context(third, round=2, global_vector=2 * moved))
    assert verdict.scores.tolist() == pytest.approx(
        [0.375, 0.625], abs=1e-6
    )  # means of (.75, 0) and (.25, 1)


def test_memory_follows_client_ids(make_updates: Callable, make_context: Callable) -> None:
    training = Training(FLDetector(window=4, burn_in=50), make_updates, make_context, attackers=0)
    training.round(0, np.array([2, 5, 9]))
    before = last_updates(training.state)
    verdict = training.round(1, np.array([3, 5, 9]))
    assert training.state["clients"].tolist() == [2, 3, 5, 9]
    after = last_updates(training.state)
    assert (before.keys(), after.keys()) == ({2, 5, 9}, {2, 3, 5, 9})
    np.testing.assert_array_equal(after[2], before[2])  # who was away keeps its last update
    assert (after[5] != before[5]).any()
    assert verdict.scores[0] == 0  # new: no prediction yet
    assert verdict.scores[1:].sum() == pytest.approx(1)
    assert np.isnan(training.state["errors"][[0, 1]]).all()


def test_a_sketch_gives_about_the_same_scores(make_updates: Callable, make_context: Callable) -> None:
    scores = []
    for size in (None, 512):
        draw = np.random.default_rng(3)
        defense: Any = FLDetector(sketch_size=size)
        state: dict[str, Any] = {}
        for number in range(3):
            updates = make_updates(draw.normal(size=(6, 3000)) * np.linspace(1, 2, 6)[:, None])
            ctx = make_context(updates, round=number, global_vector=draw.normal(size=3000).astype(np.float32))
            verdict, state = defense.apply(state or defense.init(ctx), updates, ctx)
        assert [len(row) for row in last_updates(state).values()] == [size or 3000] * 6
        scores.append(verdict.scores)
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.1)


@pytest.mark.parametrize("wrong", [{"window": 0}, {"burn_in": -1}, {"gap": "log"}, {"sketch_size": 0}])
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        FLDetector(**wrong)
