"""The calibration oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from defenses.oracle import Oracle
from raysim.errors import ConfigError


def test_removes_exactly_the_true_attackers(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    updates = make_updates(
        [[1, 0, 0], [9, 9, 9], [0, 1, 0], [0, 0, 1]], client_ids=[4, 7, 8, 11], num_examples=[2, 5, 1, 1]
    )
    verdict, state = judge(Oracle(), {}, updates, make_context(updates, truth=np.array([7, 3])))
    assert verdict.flagged.tolist() == [False, True, False, False]
    assert verdict.aggregate.tolist() == [0.5, 0.25, 0.25]
    assert verdict.weights.tolist() == [0.5, 0, 0.25, 0.25]
    assert verdict.scores.tolist() == [0, 1, 0, 0]
    assert state == {}


def test_all_attackers_keep_the_global_model(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    updates = make_updates(np.ones((2, 3)))
    verdict, _ = judge(Oracle(), {}, updates, make_context(updates, truth=np.array([0, 1])))
    assert verdict.aggregate.tolist() == [0, 0, 0]
    assert verdict.weights.tolist() == [0, 0]


def test_needs_the_truth_and_says_it_is_no_defense(
    make_updates: Callable, make_context: Callable, judge: Callable
) -> None:
    updates = make_updates(np.ones((2, 3)))
    with pytest.raises(ConfigError, match="oracle must be shown"):
        judge(Oracle(), {}, updates, make_context(updates))
    assert Oracle.calibration
