"""A node that is lost in the middle of a run, and one that joins later: the bytes stay, the new node is used."""

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
    from raysim.backends import ray_connection
    ray_connection.authenticate(os.environ, new_cluster=True)
    from ray.cluster_utils import Cluster
    import raysim

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    lost = cluster.add_node(num_cpus=1)
    joined = []

    def disturb(event):
        if event.stage == "train" and event.round == 1 and cluster.worker_nodes and not joined:
            cluster.remove_node(lost, allow_graceful=False)
        if event.row and event.round == 1:
            joined.append(cluster.add_node(num_cpus=1))
            open(sys.argv[4], "w").close()

    raysim.run(json.loads(sys.argv[1]), name="disturbed", out=sys.argv[2], address=cluster.address, observe=disturb)
    json.dump([node.node_id[:12] for node in (lost, *joined)], open(sys.argv[3], "w"))
    cluster.shutdown()
""")


def test_a_lost_node_costs_time_and_a_new_one_is_used(tiny, tmp_path):
    has_joined = tmp_path / "joined"
    defense = {"name": "tests.faulty_methods:WaitForFile", "file": str(has_joined), "round": 2}
    config = {**tiny, "rounds": 4, "resources": {"placement": "spread"}, "defense": defense}
    has_joined.touch()
    expected = raysim.run(config, name="calm", out=tmp_path, backend="inprocess")
    has_joined.unlink()
    words = [json.dumps(config), str(tmp_path), str(tmp_path / "nodes.json"), str(has_joined)]
    subprocess.run([sys.executable, "-c", SCRIPT, *words], check=True, timeout=300)
    lost, joined = json.loads((tmp_path / "nodes.json").read_text())
    result = RunResult(tmp_path / "disturbed")
    assert result.digest == expected.digest
    assert (result.path / "clients.parquet").read_bytes() == (expected.path / "clients.parquet").read_bytes()
    spans = [span for span in result.table("spans").to_pylist() if span["task"] >= 0]
    used = {node: {span["round"] for span in spans if span["node"] == node} for node in (lost, joined)}
    assert 0 in used[lost]
    assert max(used[lost]) <= 1
    assert used[joined] & {2, 3}
