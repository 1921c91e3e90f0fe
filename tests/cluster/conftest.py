"""What the tests of clusters with several nodes share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import raysim
from cluster import Cluster, processes
from raysim.composition.sharding import write_data
from raysim.runs.result import RunResult
from tests import federations

CONFIG: dict[str, Any] = {
    **federations.smallest(),
    "data": {"name": "shards", "partition": "natural"},
}


@pytest.fixture
def agrees_with_one_process(tmp_path: Path) -> Callable[[Cluster], None]:
    """Run one experiment on shards on a cluster of two nodes, and in this process with all samples in memory: the same bytes,
    on both nodes.
    """

    def compare(cluster: Cluster) -> None:
        dealt = {"population": CONFIG["population"], "data": {"name": "digits", "limit": 300}}
        write_data(raysim.ExperimentConfig.from_mapping(dealt), tmp_path / "shards")
        whole, sharded = (
            {**CONFIG, "data": {**CONFIG["data"], "root": str(tmp_path / "shards"), "store": store}}
            for store in ("memory", "shards")
        )
        here = raysim.run(whole, name="here", out=tmp_path, backend="inprocess")
        driver = f"import raysim; raysim.run({sharded!r}, name='there', out={str(tmp_path)!r})"
        assert cluster.run([sys.executable, "-c", driver]) == 0
        there = RunResult(tmp_path / "there")
        assert there.digest == here.digest
        tables = [(run.path / "clients.parquet").read_bytes() for run in (here, there)]
        assert tables[0] == tables[1]
        spans = [span for span in there.table("spans").to_pylist() if span["task"] >= 0]
        assert len({span["node"] for span in spans if span["stage"] == "train"}) == 2

    return compare


@pytest.fixture(scope="session")
def keepers() -> Callable[[], list[int]]:
    """The ids of the keepers that this process has: each the leader of its nodes' session."""

    def find() -> list[int]:
        return [child.pid for child in psutil.Process().children() if "cluster.keeper" in child.cmdline()]

    return find


@pytest.fixture(scope="session")
def nothing_left() -> Callable[[Cluster, int], None]:
    """Neither processes nor the token of a cluster that was."""

    def check(cluster: Cluster, keeper: int) -> None:
        assert processes.members(keeper) == []
        assert not Path(cluster.environment["RAY_AUTH_TOKEN_PATH"]).parent.exists()

    return check
