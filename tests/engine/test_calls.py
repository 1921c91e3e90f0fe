"""Calls of client hosts: cut again where their host was lost, down to whoever is at fault."""

from __future__ import annotations

import json

import numpy as np
import pytest

import raysim
from raysim.backends.base import InProcessBackend


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
