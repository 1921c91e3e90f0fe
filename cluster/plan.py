"""What a cluster of this machine's own is to be: its nodes, and what each of them has."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass

import psutil

from raysim.errors import ConfigError, unknown_name

KINDS = {
    "local": "one node: this machine",
    "raylets": "several Ray nodes on this machine, on loopback",
    "namespaces": "several hosts on this machine: network namespaces on a bridge; needs root",
    "address": "a cluster that is up",
}

MOST_HOSTS = 253
"""As many as the namespaces' /24 has addresses for."""

LEAST_STORE = 80 * 2**20
"""Ray refuses an object store below 75 MiB."""

UNITS = {"k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
RATE = re.compile(r"\d+(\.\d+)?[kmgt]?bit")


@dataclass(frozen=True)
class ClusterPlan:
    """Nodes to start on this machine. What each has: CPUs, GPUs (a number of whole ones, counted on from one
    node to the next), bytes of object store, bytes of memory for tasks that ask for memory; bandwidth [`tc`
    notation] of each host's link in each direction, None for no limit.
    """

    kind: str
    nodes: int
    cpus: int
    gpus: int
    object_store_bytes: int
    memory_bytes: int
    bandwidth: str | None = None

    def to_json(self) -> str:
        """As the keeper gets it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ClusterPlan:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))

    def devices(self, node: int) -> dict[str, str]:
        """The environment that shows a node its own GPUs and no others."""
        mine = range(node * self.gpus, (node + 1) * self.gpus)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine))}


def make_plan(
    kind: str,
    nodes: int,
    cpus_per_node: int | None,
    gpus_per_node: int,
    object_store_bytes: int | None,
    bandwidth: str | None,
) -> ClusterPlan:
    """A plan with everything decided; ConfigError for what cannot be.

    By default the nodes share this machine: its CPUs in equal parts (at least one each), 30 % of its free memory
    (and no more than the shared memory that is free) for their object stores, half of it for tasks.
    """
    if kind not in KINDS:
        raise unknown_name("kind", kind, KINDS)
    if nodes < 1:
        raise ConfigError("nodes", "must be at least 1", nodes, 1)
    if kind == "local" and nodes != 1:
        raise ConfigError("nodes", "must be 1 with kind local; several nodes are kind raylets", nodes, 1)
    if kind == "namespaces" and nodes > MOST_HOSTS:
        raise ConfigError("nodes", f"must not exceed {MOST_HOSTS} with kind namespaces", nodes, MOST_HOSTS)
    if cpus_per_node is not None and cpus_per_node < 1:
        raise ConfigError("cpus_per_node", "must be at least 1", cpus_per_node, 1)
    if gpus_per_node < 0:
        raise ConfigError("gpus_per_node", "must not be negative", gpus_per_node, 0)
    if object_store_bytes is not None and object_store_bytes < LEAST_STORE:
        raise ConfigError(
            "object_store_bytes", f"must be at least {LEAST_STORE}", object_store_bytes, LEAST_STORE
        )
    if bandwidth is not None:
        if kind != "namespaces":
            raise ConfigError("bandwidth", "is a limit on links, which only kind namespaces has", bandwidth)
        if not RATE.fullmatch(bandwidth):
            raise ConfigError("bandwidth", "must be a rate such as 100mbit or 1gbit", bandwidth, "1gbit")
    free = psutil.virtual_memory().available
    shared = psutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else free
    return ClusterPlan(
        kind=kind,
        nodes=nodes,
        cpus=cpus_per_node or max(1, len(os.sched_getaffinity(0)) // nodes),
        gpus=gpus_per_node,
        object_store_bytes=object_store_bytes or max(LEAST_STORE, int(min(0.3 * free, shared)) // nodes),
        memory_bytes=free // 2 // nodes,
        bandwidth=bandwidth,
    )


def bits_a_second(rate: str) -> float:
    """What a rate in `tc`'s notation says.

    >>> bits_a_second("1.5gbit")
    1500000000.0
    """
    figure = rate.removesuffix("bit")
    return float(figure.rstrip("kmgt")) * UNITS.get(figure[-1], 1.0)
