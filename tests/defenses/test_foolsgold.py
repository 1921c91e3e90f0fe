"""FoolsGold by hand, against its algorithm written as loops, and over several rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from defenses.foolsgold import FoolsGold, foolsgold_weights
from raysim.backends.left_behind import LeftBehind
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout
from raysim.runs import checkpoint


@dataclass(frozen=True)
class Head:
    """A model of which only the last layer is known: 2 classes, 2 features."""

    head: str = "head"
    num_classes: int = 2


LAYOUT = Layout(
    (Entry("body", (3,), 0, 3), Entry("head.weight", (2, 2), 3, 7), Entry("head.bias", (2,), 7, 9))
)


@pytest.fixture
def judge(make_updates, make_context):
    """judge(defense, rows, state=None, **cut) -> (verdict, state)."""

    def apply(defense: FoolsGold, rows: Any, state: Any = None, **cut: Any):
        updates = make_updates(rows, **cut)
        context = make_context(updates, factory=Head())
        return defense.apply(defense.init(context) if state is None else state, updates, context)

    return apply


def by_loops(histories: np.ndarray) -> np.ndarray:
    """Algorithm 1 of the paper, confidence 1."""
    count = len(histories)
    similarity = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            if i != j:
                lengths = np.linalg.norm(histories[i]) * np.linalg.norm(histories[j])
                similarity[i, j] = histories[i] @ histories[j] / lengths
    closest = [max(row) for row in similarity]
    for i in range(count):
        for j in range(count):
            if closest[j] > closest[i]:
                similarity[i, j] *= closest[i] / closest[j]
    weights = np.array([min(max(1 - max(row), 0), 1) for row in similarity])
    weights = weights / weights.max()
    weights[weights == 1] = 0.99
    with np.errstate(divide="ignore"):
        return np.clip(np.log(weights / (1 - weights)) + 0.5, 0, 1)


def test_weights_by_hand() -> None:
    similarity = np.array([[1, 0.6, 0.4], [0.6, 1, 0.0], [0.4, 0.0, 1]])
    # closest .6, .6, .4; client 2 is pardoned: .4 * .4 / .6; 1 - max = .4, .4, .7333; over the largest .5454.. twice
    expected = np.log(0.4 / (11 / 15) / (1 - 0.4 / (11 / 15))) + 0.5
    np.testing.assert_allclose(foolsgold_weights(similarity), [expected, expected, 1])
    assert expected == pytest.approx(0.6823, abs=1e-4)


def test_weights_against_loops() -> None:
    partial = 0.0
    for seed in range(20):
        histories = np.random.default_rng(seed).normal(size=(8, 6))
        units = histories / np.linalg.norm(histories, axis=1, keepdims=True)
        weights = foolsgold_weights(units @ units.T)
        np.testing.assert_allclose(weights, by_loops(histories), atol=1e-9)
        partial += np.count_nonzero((weights > 0) & (weights < 1))
    assert partial > 5


def test_three_clients_by_hand(judge) -> None:
    rows = [[1, 0, 0], [2, 0, 0], [0, 3, 0]]
    verdict, _ = judge(FoolsGold(features="all"), rows)
    assert verdict.weights.tolist() == [0, 0, 1]
    assert verdict.flagged.tolist() == [True, True, False]
    assert verdict.scores.tolist() == [1, 1, 0]
    assert verdict.aggregate.tolist() == [0, 3, 0]


@pytest.mark.parametrize(
    ("divide_by", "aggregate"),
    [("weights", [0, 1.5, 3]), ("clients", [0, 0.75, 1.5]), ("nothing", [0, 3, 6])],
)
def test_what_the_sum_is_divided_by(judge, divide_by: Any, aggregate: list[float]) -> None:
    # Weights 0, 0, 1 and 1 before normalisation.
    verdict, _ = judge(
        FoolsGold(features="all", divide_by=divide_by), [[1, 0, 0], [2, 0, 0], [0, 3, 0], [0, 0, 6]]
    )
    assert verdict.aggregate.tolist() == aggregate
    assert verdict.weights.tolist() == [0, 0, 0.5, 0.5]
    assert verdict.scores.tolist() == [1, 1, 0, 0]
    verdict, _ = judge(FoolsGold(features="all", divide_by=divide_by), [[1, 2, 3]] * 4)
    assert not verdict.aggregate.any()
    assert verdict.flagged.all()


@pytest.mark.parametrize("rows", [[[1, 2, 3]] * 4, [[0.1, 0.2, -0.7]] * 7])
def test_equal_updates_are_one_attacker_with_many_names(judge, rows) -> None:
    verdict, _ = judge(FoolsGold(features="all"), rows)
    assert not verdict.aggregate.any()
    assert verdict.flagged.all()


def test_single_and_zero_updates(judge) -> None:
    verdict, _ = judge(FoolsGold(features="all"), [[1, 2, 3]])
    assert verdict.aggregate.tolist() == [1, 2, 3]
    verdict, _ = judge(FoolsGold(features="all"), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(verdict.weights, [1 / 3] * 3)


def test_only_the_last_layer_s_weights_are_compared(judge) -> None:
    rows = np.zeros((3, 9))
    rows[:, 3:7] = [[1, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    rows[:, :3], rows[:, 7:] = np.eye(3), [[1, 0], [0, 1], [-1, 0]]
    verdict, state = judge(FoolsGold(), rows, layout=LAYOUT)
    assert verdict.weights.tolist() == [0, 0, 1]
    assert state["history"]["2"].tolist() == [0, 1, 0, 0]
    np.testing.assert_array_equal(verdict.aggregate, rows[2])


def histories_of(state: Any) -> dict[str, np.ndarray]:
    """{client id: its history}, from either form of the state."""
    if "history" in state:
        return state["history"]
    found = {}
    for layer in state["layers"]:
        tiles = [tile.value if isinstance(tile, LeftBehind) else tile for tile in layer["shards"]]
        rows = np.concatenate(tiles, axis=1)[layer["rows"]]
        found |= {str(client): row for client, row in zip(layer["clients"], rows, strict=True)}
    return found


@pytest.mark.parametrize("features", ["head", "all"])
def test_histories_follow_the_client_ids(judge, features: str, tmp_path) -> None:
    draw = np.random.default_rng(0)
    rounds = [
        (np.array([3, 5, 8]), draw.normal(size=(3, 9))),
        (np.array([5, 6, 8, 9]), draw.normal(size=(4, 9))),
    ]
    part = slice(3, 7) if features == "head" else slice(None)
    state: Any = None
    sums: dict[int, Any] = {}
    for ids, rows in rounds:
        before = {} if state is None else {name: row.copy() for name, row in histories_of(state).items()}
        verdict, after = judge(FoolsGold(features=features), rows, state, layout=LAYOUT, client_ids=ids)  # type: ignore[arg-type]
        for client, row in zip(ids, rows, strict=True):
            sums[client] = sums.get(client, 0) + row[part]
        histories = np.stack([sums[client] for client in ids])
        trust = by_loops(histories)
        np.testing.assert_allclose(verdict.weights, trust / trust.sum(), atol=1e-5)
        if state is not None:  # the state handed in is not touched
            assert all(np.array_equal(histories_of(state)[name], before[name]) for name in before)
        state = checkpoint.load(checkpoint.save(tmp_path, 1, {"defense": after}, keep=1))["defense"]
    assert sorted(histories_of(state)) == ["3", "5", "6", "8", "9"]
    for client, expected in sums.items():
        np.testing.assert_allclose(histories_of(state)[str(client)], expected, rtol=1e-5, atol=1e-6)


def test_clip_bounds_each_addition_to_the_history(judge) -> None:
    _, state = judge(FoolsGold(features="all", clip=1.0), [[3, 4, 0], [0, 0, 0.5]])
    np.testing.assert_allclose(histories_of(state)["0"], [0.6, 0.8, 0], rtol=1e-6)
    np.testing.assert_allclose(histories_of(state)["1"], [0, 0, 0.5])


@pytest.mark.parametrize("features", ["head", "all"])
def test_however_the_matrix_is_cut(judge, features: str) -> None:
    layout = Layout((Entry("body", (8000,), 0, 8000), Entry("head.weight", (2, 500), 8000, 9000)))
    rows = np.random.default_rng(0).normal(size=(2, 5, 9000)).astype(np.float32)
    results = []
    for cut in ({}, {"rows_per_block": 2, "bounds": (0, 4096, 8192, 9000)}):
        state: Any = None
        for matrix in rows:
            verdict, state = judge(FoolsGold(features=features), matrix, state, layout=layout, **cut)  # type: ignore[arg-type]
        results.append((verdict, state))
    (one, first), (two, second) = results
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    one, two = histories_of(first), histories_of(second)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_rows_that_were_replaced_are_let_go(judge) -> None:
    """Histories in tiles: rounds of other clients add layers, and never more rows than twice those that count."""
    draw, state, sums, layers = np.random.default_rng(0), None, {}, []
    for _ in range(12):
        ids = np.sort(draw.choice(9, 4, replace=False))
        rows = draw.normal(size=(4, 9)).astype(np.float32)
        _, state = judge(FoolsGold(features="all"), rows, state, layout=LAYOUT, client_ids=ids)
        for client, row in zip(ids.tolist(), rows, strict=True):
            sums[str(client)] = sums.get(str(client), 0) + row
        held = sum(layer["held"] for layer in state["layers"])
        assert held <= 2 * len(sums)
        layers.append(len(state["layers"]))
    assert max(layers) > 1
    assert min(layers[1:]) == 1
    found = histories_of(state)
    assert found.keys() == sums.keys()
    for client, expected in sums.items():
        np.testing.assert_allclose(found[client], expected, rtol=1e-5, atol=1e-5)


def test_histories_are_cut_as_the_round_is(judge) -> None:
    layout = Layout((Entry("body", (8000,), 0, 8000), Entry("head.weight", (2, 500), 8000, 9000)))
    rows = np.random.default_rng(0).normal(size=(3, 9000)).astype(np.float32)
    _, state = judge(FoolsGold(features="all"), rows, layout=layout)
    whole, _ = judge(FoolsGold(features="all"), rows, state, layout=layout)
    cut, _ = judge(FoolsGold(features="all"), rows, state, layout=layout, bounds=(0, 4096, 9000))
    np.testing.assert_allclose(cut.scores, whole.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("features", "heads"),
        ("clip", 0.0),
        ("clip", float("nan")),
        ("clip", float("inf")),
        ("divide_by", "client"),
    ],
)
def test_refusals(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        FoolsGold(**{key: value})
