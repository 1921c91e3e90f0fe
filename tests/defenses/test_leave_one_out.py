"""ERR and LFR: aggregates without each client, their evaluation, and who is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from defenses.err import ERR
from defenses.leave_one_out import means_without, row_by_row, trimmed_means_without
from defenses.lfr import LFR
from raysim.context import ServerData, Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError
from raysim.matrix.exact_sums import Blocks, blocks_of, constants, largest, weighted_bounds


def without(columns: np.ndarray, row: int) -> np.ndarray:
    return np.delete(columns, row, axis=0)


def trimmed(columns: np.ndarray, trim: int) -> np.ndarray:
    return np.sort(columns, axis=0)[trim : len(columns) - trim].mean(axis=0)


def bounds_of(columns: np.ndarray, shares: np.ndarray | None = None, dim: int | None = None) -> Blocks:
    """What terms are rounded to, where columns from `dim` on (default: none) are buffers."""
    shares = np.full(len(columns), 1 / len(columns)) if shares is None else shares
    found = constants(weighted_bounds(shares, largest(columns)))
    dim = columns.shape[1] if dim is None else dim
    return Blocks(np.concatenate([np.zeros(blocks_of(dim)), found]) if dim == 4 else found, dim)


def test_leave_one_out_by_hand() -> None:
    columns = np.array([[1], [2], [6], [7], [9]], np.float32)
    # without 1: 2 [6 7] 9; without 6: 1 [2 7] 9; without 9: 1 [2 6] 7
    assert trimmed_means_without(1, bounds_of(columns), columns, 0)[:, 0].tolist() == [6.5, 6.5, 4.5, 4, 4, 5]
    pair, shares = np.array([[1.0], [3.0]]), np.array([0.5, 0.5])
    assert means_without(shares, bounds_of(pair, shares), pair, 0).tolist() == [[3], [1], [2]]


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_leave_one_out_is_that_of_brute_force(count: int) -> None:
    columns = np.round(3 * np.random.default_rng(count).normal(size=(count, 2500))).astype(np.float32)
    for trim in range((count - 1) // 2 + 1):
        ours = trimmed_means_without(trim, bounds_of(columns), columns, 0)
        fewer = min(trim, (count - 2) // 2)
        expected = [trimmed(without(columns, row), fewer) for row in range(count)]
        np.testing.assert_allclose(ours, [*expected, trimmed(columns, trim)], atol=1e-5)
    medians = [np.median(without(columns, row), axis=0) for row in range(count)]
    np.testing.assert_allclose(
        trimmed_means_without((count - 1) // 2, bounds_of(columns), columns, 0),
        [*medians, np.median(columns, axis=0)],
        atol=1e-6,
    )
    shares = np.arange(1, count + 1) / (count * (count + 1) / 2)
    weighted = [
        np.average(without(columns, row), axis=0, weights=without(shares, row)) for row in range(count)
    ]
    np.testing.assert_allclose(
        means_without(shares, bounds_of(columns, shares), columns, 0)[:-1], weighted, atol=1e-5
    )


def test_buffers_get_plain_means() -> None:
    columns = np.array([[0.0], [0.0], [9.0]], np.float32)
    assert trimmed_means_without(1, bounds_of(columns, dim=4), columns, 4)[:, 0].tolist() == [4.5, 4.5, 0, 3]


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean", "median", "fedavg"])
def test_aggregates_are_the_rules_own(make_updates: Callable, rule: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(7, 50)).astype(np.float32)
    rows[2] = rows[4] + 1e-3
    updates = make_updates(rows, num_examples=np.arange(1, 8), rows_per_block=3)
    defense = LFR(rule=rule, num_byzantine=2)
    found, chosen = defense.aggregates(updates, defense.distances(updates))
    aggregates = found.to_array()[chosen]
    assert aggregates.shape == (8, 50)
    nobody = np.zeros(7, bool)
    whole, _ = defense.reaggregate(updates, nobody, defense.distances(updates))
    np.testing.assert_allclose(aggregates[7], whole, atol=1e-6)
    for left_out in range(7):
        rest = updates.select(np.delete(np.arange(7), left_out))
        expected, _ = defense.reaggregate(rest, nobody[:6], defense.distances(rest))
        np.testing.assert_allclose(aggregates[left_out], expected, atol=1e-6)


def test_what_is_assumed_after_removal_by_hand(make_updates: Callable) -> None:
    """Without the flagged 9, trimming 1 - 1 = 0 a side averages 0, 1, 2 and 97; trimming 1 as before 1 and 2."""
    updates = make_updates([[0.0], [1.0], [2.0], [97.0], [9.0]])
    flagged = np.array([False, False, False, False, True])
    for after_removal, aggregate in (("fewer", 25.0), ("same", 1.5)):
        defense = LFR(trim=1, after_removal=after_removal)  # type: ignore[arg-type]
        assert defense.reaggregate(updates, flagged, None)[0].tolist() == [aggregate]


def test_row_by_row_keeps_rows_and_order(make_updates: Callable) -> None:
    rows = np.arange(12).reshape(4, 3)
    updates = make_updates(rows, rows_per_block=3).select([0, 2, 3])
    single = row_by_row(updates)
    assert len(single.blocks) == 3
    np.testing.assert_array_equal(single.to_array(), rows[[0, 2, 3]])


@pytest.fixture
def poisoned(make_updates: Callable, make_context: Callable, tiny_model: Any) -> tuple[Any, Any]:
    """Five clients that descend on the validation data, and two (1 and 4) that climb."""
    model = tiny_model.factory.build()
    vector = torch.from_numpy(tiny_model.vector.copy())
    tiny_model.layout.bind(model, vector)
    data = tiny_model.server_data
    loss = torch.nn.functional.cross_entropy(
        model(torch.from_numpy(data.images)), torch.from_numpy(data.labels)
    )
    loss.backward()
    gradient = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()]).numpy()
    rows = -0.5 * gradient + 0.001 * np.random.default_rng(0).normal(size=(7, len(gradient)))
    rows[[1, 4]] = 3 * gradient
    updates = make_updates(rows, layout=tiny_model.layout, rows_per_block=3)
    fields = {"factory": tiny_model.factory, "server_data": data, "global_vector": tiny_model.vector}
    return updates, make_context(updates, **fields)


def test_impacts_are_differences_of_losses_and_errors(poisoned: tuple[Any, Any], tiny_model: Any) -> None:
    updates, ctx = poisoned
    rows, data = updates.to_array(), tiny_model.server_data

    def measure(update: np.ndarray) -> tuple[float, float]:
        model = tiny_model.factory.build()
        tiny_model.layout.bind(model, torch.from_numpy(tiny_model.vector + update))
        labels = torch.from_numpy(data.labels)
        with torch.no_grad():
            logits = model(torch.from_numpy(data.images))
            loss = torch.nn.functional.cross_entropy(logits, labels).item()
        return (logits.argmax(1) != labels).double().mean().item(), loss

    errors, losses = LFR(rule="fedavg", batch_size=7).impacts(updates, ctx, None)
    error, loss = measure(rows.mean(axis=0))
    for left_out in range(7):
        error_without, loss_without = measure(without(rows, left_out).mean(axis=0))
        assert errors[left_out] == pytest.approx(error - error_without, abs=1e-9)
        assert losses[left_out] == pytest.approx(loss - loss_without, abs=1e-5)


@pytest.mark.parametrize("method", [ERR, LFR])
@pytest.mark.parametrize("union", [False, True])
def test_drops_who_does_harm(poisoned: tuple[Any, Any], method: Any, union: bool, judge: Callable) -> None:
    updates, ctx = poisoned
    verdict, state = judge(method(rule="fedavg", num_byzantine=2, union=union), {}, updates, ctx)
    assert np.flatnonzero(verdict.flagged).tolist() == [1, 4]
    assert verdict.weights.tolist() == pytest.approx([0.2, 0, 0.2, 0.2, 0, 0.2, 0.2])
    assert state == {}


@pytest.mark.parametrize("rule", ["krum", "trimmed_mean", "median"])
def test_removes_exactly_c_whatever_the_rule(poisoned: tuple[Any, Any], rule: Any, judge: Callable) -> None:
    updates, ctx = poisoned
    for method in (ERR, LFR):
        assert judge(method(rule=rule, num_byzantine=2), {}, updates, ctx)[0].flagged.sum() == 2
        assert judge(method(rule=rule), {}, updates, ctx)[0].flagged.sum() == 3


def test_error_ties_are_broken_by_the_loss(
    make_updates: Callable, make_context: Callable, tiny_model: Any, judge: Callable
) -> None:
    """One validation sample: errors are 0 or 1, and no single small update changes that."""
    data = ServerData(tiny_model.server_data.images[:1], tiny_model.server_data.labels[:1])
    rows = 1e-4 * np.random.default_rng(0).normal(size=(6, tiny_model.layout.dim))
    updates = make_updates(rows, layout=tiny_model.layout)
    ctx = make_context(updates, factory=tiny_model.factory, server_data=data, global_vector=tiny_model.vector)
    by_error, _ = judge(ERR(rule="fedavg", num_byzantine=2), {}, updates, ctx)
    by_loss, _ = judge(LFR(rule="fedavg", num_byzantine=2), {}, updates, ctx)
    assert by_error.scores.tolist() == [0] * 6
    np.testing.assert_array_equal(by_error.flagged, by_loss.flagged)
    assert by_loss.scores[by_loss.flagged].min() > by_loss.scores[~by_loss.flagged].max()


def test_models_that_overflow_have_the_largest_loss(
    make_updates: Callable, make_context: Callable, tiny_model: Any, judge: Callable
) -> None:
    rows = 1e-3 * np.random.default_rng(0).normal(size=(5, tiny_model.layout.dim))
    rows[3] = 1e30
    updates = make_updates(rows, layout=tiny_model.layout)
    ctx = make_context(
        updates,
        factory=tiny_model.factory,
        server_data=tiny_model.server_data,
        global_vector=tiny_model.vector,
    )
    verdict, _ = judge(LFR(rule="fedavg", num_byzantine=1), {}, updates, ctx)
    assert np.flatnonzero(verdict.flagged).tolist() == [3]
    assert np.isfinite(verdict.scores).all()


def test_one_client_passes(poisoned: tuple[Any, Any], judge: Callable) -> None:
    updates, ctx = poisoned
    single = updates.select([2])
    for rule in ("krum", "trimmed_mean", "median", "fedavg"):
        verdict, _ = judge(ERR(rule=rule), {}, single, ctx)
        np.testing.assert_array_equal(verdict.aggregate, single.to_array()[0])
        assert not verdict.flagged.any()


def test_refuses_what_cannot_work() -> None:
    setting = Setting(population=20, cohort=10, num_malicious=2, rounds=1, num_classes=2, server_samples=5)
    ERR(num_byzantine=4).check(setting)
    for wrong, match in (
        (ERR(rule="krum", num_byzantine=4), "num_byzantine"),
        (ERR(rule="fedavg", num_byzantine=10), "num_byzantine"),
        (LFR(trim=5), "trim"),
    ):
        with pytest.raises(ConfigError, match=match):
            wrong.check(setting)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(LFR(), Setting(population=20, cohort=10, num_malicious=2, rounds=1, num_classes=2))
    with pytest.raises(ConfigError, match="did you mean 'median'"):
        LFR(rule="medians")
    with pytest.raises(ConfigError, match="batch_size"):
        LFR(batch_size=0)
