"""AUROR on hand-computed last layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import defenses.auror
from defenses.auror import AUROR
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout

# One parameter that nobody may look at, then three weights and a bias of the last layer.
LAYOUT = Layout(
    (Entry("body", (1,), 0, 1), Entry("head.weight", (1, 3), 1, 4), Entry("head.bias", (1,), 4, 5))
)
# The first weight splits 3|2, the second 4|1, the third is the same for all but noise below the threshold; the bias
# splits 3|2. In the minority: clients 3 (first, bias) and 4 (first, second, bias).
ROWS = [
    [9, 0.0, 0.0, 0.0000, 0.0],
    [9, 0.0, 0.0, 0.0001, 0.0],
    [9, 0.0, 0.0, 0.0000, 0.0],
    [9, 1.0, 0.0, 0.0001, 3.0],
    [9, 1.0, 1.0, 0.0000, 3.0],
]


@pytest.fixture
def judge(make_updates: Callable, make_context: Callable, tiny_model: Any) -> Callable:
    def run(defense: AUROR, rows: Any, state: dict | None = None) -> tuple:
        updates = make_updates(rows, layout=LAYOUT)
        ctx = make_context(updates, factory=tiny_model.factory)
        return defense.apply(defense.init(ctx) if state is None else state, updates, ctx)

    return run


@pytest.mark.parametrize("block", [8192, 3])
def test_share_of_indicative_parameters_by_hand(judge: Callable, block: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(defenses.auror, "_BLOCK", block)
    verdict, state = judge(AUROR(), ROWS)
    assert state["indicative"].tolist() == [True, True, False, True]
    assert state["rounds"] == 1
    assert verdict.scores.tolist() == pytest.approx([0, 0, 0, 2 / 3, 1])
    assert verdict.flagged.tolist() == [False, False, False, True, True]
    assert verdict.aggregate.tolist() == pytest.approx([9, 0, 0, 0.0001 / 3, 0])


def test_equal_halves_accuse_the_larger_norm(judge: Callable) -> None:
    verdict, _ = judge(AUROR(), [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, -5, 0, 0, 0], [0, -5, 0, 0, 0]])
    assert verdict.flagged.tolist() == [False, False, True, True]


def test_equal_halves_may_pass(judge: Callable) -> None:
    halves = [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, -5, 0, 0, 0], [0, -5, 0, 0, 0]]
    for clustering in ("parameter", "joint"):
        verdict, state = judge(AUROR(clustering=clustering, tie="accept"), halves)
        assert state["indicative"].any()
        assert not verdict.flagged.any()
    # The first weight ties, the second has client 3 alone: in the minority of one in two, not of more than half.
    uneven = [[0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, -5, 0, 0, 0], [0, -5, 7, 0, 0]]
    verdict, _ = judge(AUROR(tie="accept"), uneven)
    assert verdict.scores.tolist() == [0, 0, 0, 0.5]
    assert judge(AUROR(), uneven)[0].scores.tolist() == [0, 0, 0.5, 1]
    verdict, _ = judge(AUROR(clustering="joint", tie="accept"), ROWS)  # no tie
    assert verdict.flagged.tolist() == [False, False, False, True, True]


def test_the_set_is_learned_in_the_first_rounds_only(judge: Callable) -> None:
    defense = AUROR(learning_rounds=2)
    quiet = [[0, 0, 0, 0, 0]] * 5
    verdict, state = judge(defense, quiet)
    assert not verdict.flagged.any()
    assert not state["indicative"].any()
    _, state = judge(defense, quiet, state)
    verdict, state = judge(defense, ROWS, state)  # too late
    assert not verdict.flagged.any()
    assert not state["indicative"].any()
    _, early = judge(defense, ROWS)
    verdict, early = judge(defense, quiet, early)
    assert early["indicative"].tolist() == [True, True, False, True]
    assert not verdict.flagged.any()


def test_joint_clustering_keeps_the_majority(judge: Callable) -> None:
    verdict, _ = judge(AUROR(clustering="joint"), ROWS)
    assert verdict.flagged.tolist() == [False, False, False, True, True]
    assert verdict.scores.tolist() == pytest.approx([0, 0, 0, np.sqrt(10), np.sqrt(11)])
    verdict, _ = judge(AUROR(clustering="joint"), [[0, 1, 0, 0, 0], [0, -5, 0, 0, 0]])
    assert verdict.flagged.tolist() == [False, True]


def test_one_client_passes(judge: Callable) -> None:
    verdict, state = judge(AUROR(), [[1, 2, 3, 4, 5]])
    assert verdict.aggregate.tolist() == [1, 2, 3, 4, 5]
    assert state["rounds"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"learning_rounds": 0},
        {"share": 1.0},
        {"clustering": "jointly"},
        {"tie": "smaller_norm"},
    ],
)
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AUROR(**wrong)
