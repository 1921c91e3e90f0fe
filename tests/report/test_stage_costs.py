"""Seconds a round, by hand: the median without the first round, by stage and by owner."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raysim.report.stage_costs import (
    UNKNOWN,
    Cost,
    cost,
    owner_cost,
    owner_costs,
    owner_seconds,
    owner_share,
    round_cost,
    stage_costs,
)

NAMES = ("round", "stage", "owner", "task", "wall_s", "cpu_s", "bytes_in", "bytes_out", "peak_memory_bytes")


def spans(*rows: tuple) -> dict[str, np.ndarray]:
    full = [(*row, *(0.0, 0, 0, 0)[len(row) - 5 :]) if len(row) < 9 else row for row in rows]
    columns = {name: np.array([row[at] for row in full]) for at, name in enumerate(NAMES)}
    columns = {
        name: column.astype(object) if column.dtype.kind == "U" else column
        for name, column in columns.items()
    }
    columns["retries"] = np.ones(len(rows), np.int64)
    columns["bytes_moved"] = np.arange(len(rows), dtype=np.float64)
    columns["bytes_spilled"] = columns["bytes_restored"] = 2 * columns["bytes_moved"]
    columns["peak_gpu_bytes"] = np.array([5.0 if row[1] == "train" and row[0] else np.nan for row in rows])
    return columns


ROUNDS = spans(
    (0, "train", "client", -1, 10.0),
    (0, "gram", "defense", -1, 4.0, 1.0, 10, 1, 500),
    (0, "gram", "defense", 0, 99.0, 1.0, 10, 1, 999),
    (0, "gram", "defense", 1, 99.0, 1.0, 10, 1, 999),
    (0, "init", "defense", -1, 2.0),
    (1, "train", "client", -1, 2.0),
    (1, "gram", "defense", -1, 0.5, 1.0, 30, 2, 200),
    (1, "gram", "defense", -1, 0.5, 1.0, 30, 2, 300),
    (2, "train", "client", -1, 3.0),
    (2, "gram", "defense", -1, 0.5),
    (2, "vote", "defense", -1, 0.25),
    (2, "craft", "attack", -1, 0.25),
    (3, "train", "client", -1, 4.0),
    (3, "gram", "defense", -1, 1.0),
)  # fmt: skip


def test_a_stage_costs_the_median_of_the_rounds_after_its_first():
    found = {entry.stage: entry for entry in stage_costs(ROUNDS)}
    assert found["train"].cost == Cost(first_s=10.0, median_s=3.0, rounds=4, total_s=19.0)
    assert found["gram"].cost == Cost(first_s=4.0, median_s=1.0, rounds=4, total_s=6.5)
    gram = found["gram"]
    assert (gram.owner, gram.bytes_in, gram.bytes_out, gram.peak_memory_bytes) == ("defense", 70, 5, 500)
    assert np.isnan(gram.peak_gpu_bytes)
    assert found["train"].peak_gpu_bytes == 5.0
    assert (gram.tasks, gram.retries, gram.cpu_s, gram.bytes_moved) == (2, 5, 3.0, 1.0 + 6 + 7 + 9 + 13)
    assert gram.bytes_spilled == gram.bytes_restored == 2 * gram.bytes_moved


def test_the_tasks_of_a_stage_are_no_part_of_its_seconds():
    assert sum(entry.cost.total_s for entry in stage_costs(ROUNDS)) == 19 + 6.5 + 2 + 0.25 + 0.25


def test_what_ran_once_has_a_first_round_and_no_median():
    vote = next(entry for entry in stage_costs(ROUNDS) if entry.stage == "vote").cost
    assert (vote.first_s, vote.rounds, vote.total_s) == (0.25, 1, 0.25)
    assert math.isnan(vote.median_s)


def test_stages_are_in_order_of_their_seconds_then_of_their_names():
    assert [entry.stage for entry in stage_costs(ROUNDS)] == ["train", "gram", "init", "craft", "vote"]


def test_one_name_of_two_owners_is_two_stages():
    both = spans((0, "guard", "engine", -1, 1.0), (0, "guard", "defense", -1, 2.0))
    assert [(entry.owner, entry.cost.total_s) for entry in stage_costs(both)] == [
        ("defense", 2.0),
        ("engine", 1.0),
    ]


def test_an_owner_costs_what_its_stages_of_a_round_cost_together():
    found = owner_costs(ROUNDS)
    assert list(found) == ["client", "attack", "defense"]
    assert found["client"] == Cost(10.0, 3.0, 4, 19.0)
    assert found["defense"] == Cost(6.0, 1.0, 4, 8.75)
    assert (found["attack"].first_s, found["attack"].rounds) == (0.25, 1)
    assert owner_seconds(ROUNDS)["defense"].tolist() == [6.0, 1.0, 0.75, 1.0]
    np.testing.assert_array_equal(owner_seconds(ROUNDS)["attack"], [np.nan, np.nan, 0.25, np.nan])


def test_an_owner_without_a_stage_has_no_cost():
    none = owner_cost(ROUNDS, "engine")
    assert (none.rounds, none.total_s) == (0, 0.0)
    assert math.isnan(none.first_s)
    assert math.isnan(none.median_s)
    assert math.isnan(owner_share(ROUNDS, "engine"))


def test_a_share_is_of_the_same_rounds_seconds():
    # 1 of 3, 0.75 of 4, 1 of 5 in the rounds after the first
    assert owner_share(ROUNDS, "defense") == pytest.approx(1 / 5)


def test_a_round_costs_what_its_stages_cost_together():
    assert round_cost(ROUNDS) == Cost(16.0, 4.0, 4, 28.0)
    assert round_cost(ROUNDS, leave_out=["train"]) == Cost(6.0, 1.0, 4, 9.0)


def test_no_round_costs_nothing():
    nothing = {name: column[:0] for name, column in ROUNDS.items()}
    assert (stage_costs(nothing), owner_costs(nothing)) == ([], {})
    assert cost([]).rounds == 0
    assert math.isnan(cost([]).first_s)


def test_stages_of_earlier_versions_have_an_unknown_owner():
    old = spans((0, "gram", "", -1, 1.0), (1, "gram", "", -1, 2.0))
    assert owner_costs(old) == {UNKNOWN: Cost(1.0, 2.0, 2, 3.0)}
    assert stage_costs(old)[0].owner == UNKNOWN
    assert owner_cost(old, "defense").rounds == 0
