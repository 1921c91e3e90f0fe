"""A node that is killed in a run, one that joins, and that one drained: the bytes stay, and each is used while it is there."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

import raysim
from raysim.runs.result import RunResult

pytestmark = pytest.mark.ray

SCRIPT = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    os.environ["RAY_max_direct_call_object_size"] = "100"  # else small tiles lie in messages, not on nodes
    from raysim.backends import ray_connection
    ray_connection.authenticate(os.environ, new_cluster=True)
    from ray._raylet import GcsClient
    from ray.cluster_utils import Cluster
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
    import raysim

    config, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = {"lost": cluster.add_node(num_cpus=1)}

    def kill(name):
        cluster.remove_node(nodes[name], allow_graceful=False)

    def join():
        nodes["joined"] = cluster.add_node(num_cpus=1)

    def drain():
        client = GcsClient(address=cluster.gcs_address)
        assert client.drain_node(nodes["joined"].node_id, DRAIN_NODE_REASON_PREEMPTION, "needed elsewhere", 0)[0]

    moments = {  # the round, what is over in it, what is done then, and what the defense waits for meanwhile
        (1, "train"): (lambda: kill("lost"), "before-1"),
        (1, "row"): (join, "before-2"),
        (4, "foolsgold"): (drain, "after-4"),
        (5, "train"): (lambda: kill("joined"), "before-5"),
    }

    def disturb(event):
        if event.row or event.done == event.total > 0:
            act, gate = moments.pop((event.round, "row" if event.row else event.stage), (None, None))
            if act is not None:
                act()
                (out / gate).unlink()

    raysim.run(config, name="disturbed", out=out, address=cluster.address, observe=disturb)
    (out / "nodes.json").write_text(json.dumps({name: node.node_id[:12] for name, node in nodes.items()}))
    cluster.shutdown()
""")


def test_nodes_may_be_lost_join_and_leave(tiny, tmp_path, monkeypatch):
    """lost: killed in round 1. joined: there before round 3, told to leave in round 4 when it holds a part of what the defense
    remembers, and killed in round 5 before that is read.
    """
    for name, value in (("period_ms", 500), ("timeout_ms", 3000)):
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))
    defense = {"name": "tests.tiled_methods:Remembers", "folder": str(tmp_path)}
    config = {**tiny, "rounds": 6, "resources": {"elastic": True}, "defense": defense}
    expected = raysim.run(config, name="calm", out=tmp_path, backend="inprocess")
    for gate in ("before-1", "before-2", "after-4", "before-5"):
        (tmp_path / gate).touch()
    subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(config), str(tmp_path)], check=True, timeout=600)
    nodes = json.loads((tmp_path / "nodes.json").read_text())
    result = RunResult(tmp_path / "disturbed")
    assert result.digest == expected.digest
    assert (result.path / "clients.parquet").read_bytes() == (expected.path / "clients.parquet").read_bytes()

    spans = result.table("spans").to_pylist()
    tasks = [span for span in spans if span["task"] >= 0]
    used = {name: {span["round"] for span in tasks if span["node"] == node} for name, node in nodes.items()}
    assert 0 in used["lost"]
    assert max(used["lost"]) <= 1
    assert max(used["joined"]) == 4
    hosted = {span["round"] for span in tasks if (span["node"], span["stage"]) == (nodes["joined"], "train")}
    assert hosted == {3, 4}
    assert {span["round"] for span in tasks if span["stage"] == "move"} == {5}
    assert max((span["round"] for span in spans if span["stage"] == "restart"), default=0) <= 2
    assert not sum(span["retries"] for span in spans if span["round"] >= 3)
