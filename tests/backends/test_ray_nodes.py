"""Which nodes get work, and what is known of an autoscaler."""

from __future__ import annotations

from typing import Any

import pytest

from raysim.backends import ray_nodes
from raysim.backends.ray_connection import capacity


def node(name: str, cpus: float, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "Resources": {"CPU": cpus} if cpus else {}}


@pytest.mark.parametrize(
    ("nodes", "leaving", "dealt"),
    [
        ([node("b", 1), node("a", 3)], {}, "abaa"),
        ([node("b", 1), node("a", 3)], {"a": 0}, "b"),
        ([node("b", 1), node("a", 3, alive=False)], {}, "b"),
        ([node("a", 0), node("b", 2)], {}, "bb"),
        ([node("a", 0)], {}, "a"),
        ([node("a", 2)], {"a": 0}, "aa"),
    ],
    ids=[
        "by CPUs",
        "one leaves",
        "one is gone",
        "a head without CPUs",
        "no CPUs at all",
        "all leave: better there than nowhere",
    ],
)
def test_actors_are_dealt_among_the_nodes_that_stay(monkeypatch, nodes, leaving, dealt):
    monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray_nodes.state, "get_draining_nodes", lambda: leaving)
    assert "".join(ray_nodes.nodes_by_cpu(ray_nodes.leaving())) == dealt


def test_what_an_autoscaler_has_told_ray_is_known(ray_cluster):
    """Ray keeps it in its key-value store; the key is as its own source names it."""
    from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
    from ray.core.generated.autoscaler_pb2 import ClusterConfig, NodeGroupConfig
    from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put

    before = capacity()
    assert (before.cpus, before.most_cpus, before.most_gpus) == (2, None, None)
    group = NodeGroupConfig(name="workers", max_count=3, resources={"CPU": 8})
    told = ClusterConfig(node_group_configs=[group]).SerializeToString()
    place = {"namespace": GCS_AUTOSCALER_STATE_NAMESPACE}
    _internal_kv_put(GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, told, **place)
    try:
        after = capacity()
    finally:
        _internal_kv_del(GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, **place)
    assert (after.cpus, after.most_cpus, after.most_gpus) == (2, 24.0, 0.0)
