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


def test_work_is_counted_in_batches():
    """11 samples are two batches, in each of two epochs."""
    experiment = sized([1, 10, 11, 95])
    assert work_of(experiment, np.array([0, 1, 2, 3])).tolist() == [2, 2, 4, 20]
    assert work_of(experiment, np.array([3, 0])).tolist() == [20, 2]


@pytest.mark.parametrize(
    ("sizes", "blocks"),
    [
        ([10] * 8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        ([60, 10, 10, 10, 10, 10, 10, 30], [[0], [1, 2, 3], [4, 5, 6], [7]]),
        (
            [10, 10, 10, 10, 10, 10, 10, 900],
            [[0, 1, 2, 3], [4, 5, 6], [7]],
        ),  # nobody is a block of more than 4 rows
    ],
)
def test_blocks_have_nearly_equal_work(sizes, blocks):
    experiment = sized(sizes)
    assert [block.tolist() for block in split_cohort(np.arange(8), experiment, 2)] == blocks


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_blocks_of_skewed_cohorts_are_bounded(workers):
    draw = np.random.default_rng(3)
    sizes = np.maximum(1, draw.lognormal(3, 1.5, 100)).astype(int)
    experiment = sized(sizes.tolist())
    cohort = np.flatnonzero(draw.random(100) < 0.8)
    blocks = split_cohort(cohort, experiment, workers)
    np.testing.assert_array_equal(np.concatenate(blocks), cohort)
    even = -(-len(cohort) // (2 * workers))
    assert max(map(len, blocks)) <= 2 * even
    work = [work_of(experiment, block).sum() for block in blocks]
    assert max(work) <= work_of(experiment, cohort).sum() / (2 * workers) + work_of(experiment, cohort).max()


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
