"""The nodes that work can be given to, and how many an autoscaler may bring.

Ray's public interface says neither which nodes are about to leave nor what its autoscaler knows; the two functions of its
own that do (which its libraries for training and data use, too) are called here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import ray
from ray._private.state import state
from ray.util.placement_group import PlacementGroup, placement_group_table

from raysim.backends.placement import Node
from raysim.backends.ray_worker import short_name


def leaving() -> set[str]:
    """Ids of the nodes that are being drained: they get no new work, and end when they have none."""
    return set(state.get_draining_nodes())


def staying(away: Collection[str]) -> list[dict[str, Any]]:
    """What `ray.nodes` says of those that are alive and not `away`, by id; of all alive if there are none."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    return [node for node in alive if node["NodeID"] not in away] or alive


def nodes_by_cpu(away: Collection[str]) -> list[str]:
    """Ids of the nodes that are not `away`, each as often as it has CPUs, dealt in turn: where one actor per CPU goes.

    A node without CPUs gets none, unless no node has any: then each gets one.
    """
    nodes = staying(away)
    cpus = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in nodes}
    left = cpus if any(cpus.values()) else dict.fromkeys(cpus, 1)
    order = []
    while any(left.values()):
        for name, count in left.items():
            if count:
                order.append(name)
                left[name] -= 1
    return order


def with_room(group: PlacementGroup | None, away: Collection[str]) -> list[Node]:
    """The nodes alive but for those `away`, and what the reservations of `group` and of the actor that asks leave of each."""
    reserved: Counter[tuple[str, str]] = Counter()
    context = ray.get_runtime_context()
    if context.get_actor_id():
        for kind, share in context.get_assigned_resources().items():
            reserved[context.get_node_id(), kind] += share
    if group is not None:
        table = placement_group_table(group)
        for place, bundle in table["bundles"].items():
            for kind, share in bundle.items():
                reserved[table["bundles_to_node_id"][place], kind] += share
    found = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in away:
            left = [
                node["Resources"].get(kind, 0.0) - reserved[node["NodeID"], kind]
                for kind in ("CPU", "GPU", "memory")
            ]
            found.append(Node(short_name(node["NodeID"]), node["NodeID"], *left))
    return found


def autoscaler_most() -> dict[str, float]:
    """What an autoscaler may bring the cluster to, by resource, as far as it has told; {} if it has not."""
    return {name: float(most) for name, most in (state.get_max_resources_from_cluster_config() or {}).items()}
