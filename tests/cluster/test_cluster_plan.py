"""Requests: what they are filled in with, and which are refused before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster import bring_up, namespaces
from cluster.plan import LEAST_STORE, ClusterPlan, make_plan
from raysim.errors import ConfigError, RunError


def planned(kind, nodes=1, cpus=None, gpus=0, store=None, bandwidth=None):
    return make_plan(kind, nodes, cpus, gpus, store, bandwidth)


def test_nodes_share_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    one, three, nine = (planned("raylets", nodes) for nodes in (1, 3, 9))
    assert (one.cpus, three.cpus, nine.cpus) == (7, 2, 1)
    assert three.object_store_bytes * 3 <= one.object_store_bytes * 1.5
    assert three.memory_bytes * 3 <= one.memory_bytes * 1.5
    assert planned("raylets", 10_000).object_store_bytes == LEAST_STORE
    assert planned("raylets", 3, cpus=5, store=LEAST_STORE + 1).cpus == 5


def test_a_plan_survives_the_way_to_the_keeper():
    plan = ClusterPlan("namespaces", 3, 2, 1, 2**27, 2**30, "100mbit")
    assert ClusterPlan.from_json(plan.to_json()) == plan


def test_nodes_see_disjoint_gpus():
    plan = planned("raylets", 2, gpus=2)
    assert [plan.devices(node) for node in range(2)] == [
        {"CUDA_VISIBLE_DEVICES": "0,1"},
        {"CUDA_VISIBLE_DEVICES": "2,3"},
    ]
    assert planned("raylets", 2).devices(1) == {"CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize(
    ("request_", "key", "nearest"),
    [
        ({"kind": "raylet"}, "kind", "raylets"),
        ({"kind": "local", "nodes": 2}, "nodes", 1),
        ({"kind": "raylets", "nodes": 0}, "nodes", 1),
        ({"kind": "namespaces", "nodes": 254}, "nodes", 253),
        ({"kind": "raylets", "cpus_per_node": 0}, "cpus_per_node", 1),
        ({"kind": "raylets", "gpus_per_node": -1}, "gpus_per_node", 0),
        ({"kind": "raylets", "object_store_bytes": 1}, "object_store_bytes", LEAST_STORE),
        ({"kind": "raylets", "bandwidth": "1gbit"}, "bandwidth", None),
        ({"kind": "namespaces", "bandwidth": "fast"}, "bandwidth", "1gbit"),
        ({"kind": "namespaces", "bandwidth": "1gbit latency 1s"}, "bandwidth", "1gbit"),
        ({"kind": "address"}, "address", None),
        ({"kind": "raylets", "address": "127.0.0.1:6379"}, "address", None),
    ],
)
def test_what_cannot_be_is_refused(request_, key, nearest):
    with pytest.raises(ConfigError) as caught, bring_up(**request_):
        pytest.fail("came up")
    assert (caught.value.key, caught.value.nearest) == (key, nearest)


def test_namespaces_say_what_is_missing(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="iproute2: no command ip or tc in PATH"):
        namespaces.require()
    monkeypatch.undo()
    monkeypatch.setattr(namespaces.shutil, "which", lambda tool: tool)
    monkeypatch.setattr(Path, "read_text", lambda path: "CapPrm:\t0\nCapEff:\t0000000000001000\nCapBnd:\t0\n")
    with pytest.raises(ConfigError, match="root: the process has no CAP_SYS_ADMIN;"):
        namespaces.require()


def test_token_buckets_hold_some_milliseconds_of_their_rate():
    assert namespaces.token_bucket("2gbit") == ["rate", "2gbit", "burst", "1000000b", "latency", "50ms"]
    assert namespaces.token_bucket("1.5mbit")[3] == f"{256 * 1024}b"
    assert namespaces.token_bucket("8000000000bit")[3] == "4000000b"


def test_a_cluster_that_cannot_be_reached_is_an_error_of_the_run(monkeypatch):
    monkeypatch.setattr("cluster.clusters.START_LIMIT_S", 0.2)
    with (
        pytest.raises(RunError, match=r"127\.0\.0\.1:1 had no 2 nodes in 0\.2 s"),
        bring_up("address", address="127.0.0.1:1", nodes=2),
    ):
        pytest.fail("came up")
