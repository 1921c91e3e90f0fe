"""Calls of client hosts: cut again where their host was lost, down to whoever is at fault."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import raysim
from raysim import ExperimentConfig
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.engine.calls import split_cohort, work_of


class LosesHosts(InProcessBackend):
    """Every call with client 7 is lost, as if its host had been killed for want of memory."""

    def call_clients(self, stage, method, items, **options):
        if method != "train":
            return super().call_clients(stage, method, items, **options)
        self.asked.append([item[1].tolist() for item in items])
        kept = [item for item in items if 7 not in item[1]]
        answers = iter(super().call_clients(stage, method, kept, **options))
        return [None if 7 in item[1] else next(answers) for item in items]


@pytest.mark.parametrize(
    ("way", "stack", "lost"), [("split", 1, {7}), ("split", 3, {6, 7, 8}), ("drop", 1, {5, 6, 7, 8, 9})]
)
def test_calls_that_are_lost_are_cut_down_to_clients_that_train_together(
    tiny, tmp_path, monkeypatch, way, stack, lost
):
    config = {
        **tiny,
        "rounds": 1,
        "attack": None,
        "population": {"clients": 10},
        "defense": "fedavg",
        "training": {"clients_per_stack": stack},
        "resources": {"clients_per_actor": 5, "lost_clients": way},
    }
    monkeypatch.setattr(LosesHosts, "asked", [], raising=False)
    monkeypatch.setattr("raysim.runs.runner.InProcessBackend", LosesHosts)
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    rows = {row["client"]: row["reason"] for row in result.table("clients").to_pylist()}
    assert sorted(rows) == list(range(10))
    assert {client for client, reason in rows.items() if reason} == lost
    assert json.loads(result.rounds[0]["notes"])["absent"] == {"lost: its host failed too often": len(lost)}
    first, *later = LosesHosts.asked
    assert sum(map(len, first)) == 10
    if way == "drop":
        assert later == []
    if stack == 1 and way == "split":
        assert later == [[[5, 6], [7, 8, 9]], [[7], [8, 9]]]


def sized(sizes, **groups):
    """An experiment in which clients hold so many samples each, in batches of 10."""
    config = {
        "population": {"clients": len(sizes)},
        "training": {"batch_size": 10, "epochs": 2, "clients_per_stack": 1},
    }
    experiment = compose(
        ExperimentConfig.from_mapping(
            {"server_data": {"samples": 0}, "defense": "fedavg", **config, **groups}
        )
    )
    return replace(experiment, sizes=np.array(sizes))


@pytest.mark.parametrize(
    ("stack", "clients", "work"),
    [(1, [0, 1, 2, 3], 28), (1, [0, 3], 22), (2, [0, 1, 2, 3], 22), (3, [0, 1], 2)],
)
def test_work_is_counted_in_steps(stack, clients, work):
    """11 samples are two batches, in each of two epochs; a stack takes the steps of its longest client."""
    experiment = sized([1, 10, 11, 95], training={"batch_size": 10, "epochs": 2, "clients_per_stack": stack})
    assert work_of(experiment, 0, np.array(clients)) == work


@pytest.mark.parametrize(
    ("stack", "sizes", "blocks"),
    [
        (1, [10] * 8, [[0, 1], [2, 3], [4], [5], [6], [7]]),  # a quarter of 8, of 6, of 4 and so on
        (1, [60, 10, 10, 10, 10, 10, 10, 30], [[0], [7], [1, 2], [3], [4], [5], [6]]),
        (1, [10] * 7 + [900], [[7], [0, 1, 2, 3], [4, 5, 6]]),  # 6 batches would do: 4 rows at most
        (2, [10, 95, 10, 100, 10, 10, 10, 10], [[1, 3], [0, 2], [4, 5], [6, 7]]),
        (2, [10] * 4, [[0, 1], [2, 3]]),
    ],
)
def test_blocks_take_half_a_worker_s_part_of_the_work_that_is_left(stack, sizes, blocks):
    training = {"batch_size": 10, "epochs": 1, "clients_per_stack": stack}
    experiment = sized(sizes, training=training)
    assert [block.tolist() for block in split_cohort(np.arange(len(sizes)), experiment, 2)] == blocks


@pytest.mark.parametrize(
    ("row_bytes", "blocks"),
    [(2**24, [3, 3, 3, 3, 3, 2, 2, 2, 2, 1]), (2**26, [3, 3, 3, 3, 3, 2, 2, 1, 1, 1, 1, 1])],
)
def test_blocks_whose_rows_cross_to_other_nodes_are_small_at_last(monkeypatch, row_bytes, blocks):
    """Of 24 clients on two workers the first have a quarter of 12, the least 1.5 otherwise; LANDING_BYTES is two rows of 2**24 bytes,
    half of one of 2**26.
    """
    experiment = sized([10] * 24)
    columns = experiment.setup.layout.num_columns
    monkeypatch.setattr("raysim.engine.calls.LANDING_BYTES", 2**25 * 4 * columns // row_bytes)
    assert [len(block) for block in split_cohort(np.arange(24), experiment, 2, crossing=True)] == blocks
    assert [len(block) for block in split_cohort(np.arange(24), experiment, 2)] == [6, 5, 3, 3, 2, 2, 2, 1]


def test_last_blocks_are_one_of_few_parts_however_large_their_rows(monkeypatch):
    """A 64th of 192 clients is 3; the first have a quarter of 96."""
    monkeypatch.setattr("raysim.engine.calls.LANDING_BYTES", 1)
    blocks = split_cohort(np.arange(192), sized([10] * 192), 2, crossing=True)
    assert [len(block) for block in blocks] == [24, 24, 24, 24, 24, 18, 14, 10, 8, 6, 4, 3, 3, 3, 3]
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), np.arange(192))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("stack", [1, 4])
def test_workers_that_take_blocks_in_turn_end_nearly_together(stack, workers):
    draw = np.random.default_rng(3)
    sizes = np.maximum(1, draw.lognormal(3, 1.5, 100)).astype(int).tolist()
    experiment = sized(sizes, training={"batch_size": 10, "clients_per_stack": stack})
    cohort = np.flatnonzero(draw.random(100) < 0.8)
    blocks = split_cohort(cohort, experiment, workers)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), cohort)
    assert max(map(len, blocks)) <= 2 * -(-len(cohort) // (2 * workers))
    work = [work_of(experiment, 0, block) for block in blocks]
    assert sum(work) == work_of(experiment, 0, cohort)
    ends = np.zeros(workers)
    for block in work:
        ends[ends.argmin()] += block
    assert ends.max() <= max(1.05 * sum(work) / workers, work[0])  # else the longest stack alone
    assert len(blocks) <= 5 * workers + 1


def test_stacks_hold_clients_with_as_many_steps():
    """And no stack's members depend on which others are called with it."""
    sizes = [5, 500, 30, 490, 5, 25, 480]
    experiment = sized(sizes, training={"batch_size": 10, "clients_per_stack": 2})
    groups = experiment.setup.groups
    stacks = [[1, 3], [2, 6], [0, 5], [4]]
    everybody = np.arange(7)
    assert [group.tolist() for group in groups(0, everybody, experiment.sizes)] == stacks
    for left_out in range(4):
        some = np.sort(np.concatenate([stack for number, stack in enumerate(stacks) if number != left_out]))
        found = [some[group].tolist() for group in groups(0, some, experiment.sizes[some])]
        assert found == [stack for number, stack in enumerate(stacks) if number != left_out]


def test_what_actors_host_is_counted_in_clients_where_that_is_asked():
    experiment = sized([900, 10, 10, 10, 10], resources={"clients_per_actor": 2})
    assert [len(block) for block in split_cohort(np.arange(5), experiment, 2)] == [2, 2, 1]


def test_lost_clients_are_left_out_of_the_mean_and_of_nothing_else(tiny, tmp_path, monkeypatch):
    """The nine others give the bytes of a run in which client 7 has nothing to send."""
    monkeypatch.setattr(LosesHosts, "asked", [], raising=False)
    monkeypatch.setattr("raysim.runs.runner.InProcessBackend", LosesHosts)
    config = {**tiny, "rounds": 1, "attack": None, "population": {"clients": 10}, "defense": "fedavg"}
    digests = set()
    for per_actor in (2, 5, 10):
        resources = {"clients_per_actor": per_actor}
        training = {"clients_per_stack": 1}
        run = {**config, "resources": resources, "training": training}
        digests.add(raysim.run(run, name=str(per_actor), out=tmp_path, backend="inprocess").digest)
    assert len(digests) == 1
    assert np.isfinite(raysim.runs.result.RunResult(tmp_path / "2").global_vector).all()
