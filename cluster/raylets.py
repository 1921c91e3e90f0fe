"""Ray nodes side by side on this machine, on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import processes
from cluster.plan import ClusterPlan

LOOPBACK = "127.0.0.1"


@contextmanager
def started(plan: ClusterPlan, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(The address, no words that take a driver elsewhere.) The folder is $RAY_TMPDIR already.

    Not `ray start`: it takes no loopback address, and listens on every interface of the machine.
    """
    from ray.cluster_utils import Cluster

    def options(node: int) -> dict[str, Any]:
        return {
            "num_cpus": plan.cpus,
            "num_gpus": plan.gpus,
            "memory": plan.memory_bytes,
            "object_store_memory": plan.object_store_bytes,
            "node_ip_address": LOOPBACK,
            "include_dashboard": False,
            "include_log_monitor": False,
            "no_monitor": True,
            "env_vars": plan.devices(node),
        }

    try:
        nodes = Cluster(initialize_head=True, head_node_args=options(0), shutdown_at_exit=False)
        for node in range(1, plan.nodes):
            nodes.add_node(**options(node))
        yield nodes.address, ()
    finally:
        processes.end_session(os.getpid())
