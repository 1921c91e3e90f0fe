"""What nodes hold on their own disks: asked of each, and read where it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysim.backends.ray_actors import WORKER_LOST, as_own_error
from raysim.backends.ray_nodes import leaving, staying
from raysim.errors import DataError

Answer = TypeVar("Answer")

GONE = (
    *WORKER_LOST,
    exceptions.TaskUnschedulableError,
    exceptions.ObjectLostError,
    exceptions.OwnerDiedError,
)
"""What reading on a node ends with that is gone, or about to."""

TRIES = 2
"""How often every holder is asked before it is said that none is left."""


def of_each_node(fn: Callable[..., Answer], *args: object) -> dict[str, Answer]:
    """fn(*args) on every node that stays, by the node's id; a node that is lost meanwhile is left out."""
    asked = {node["NodeID"]: _on(node["NodeID"], fn, *args) for node in staying(leaving())}
    found: dict[str, Answer] = {}
    for node, answer in asked.items():
        try:
            found[node] = ray.get(answer)
        except GONE:
            continue
        except exceptions.RayTaskError as error:
            raise as_own_error(error) from error
    return found


@dataclass(frozen=True)
class Holders:
    """Calls `read(number, ...)` on a node that holds what has that number; the nodes' ids by number."""

    read: Callable[..., Any]
    nodes: Mapping[int, tuple[str, ...]]

    def __call__(self, number: int, *args: object) -> Any:
        """What `read` returns there; DataError if no such node is left."""
        for node in self.nodes[number] * TRIES:
            try:
                return ray.get(_on(node, self.read, number, *args))
            except GONE:
                continue
            except exceptions.RayTaskError as error:
                raise as_own_error(error) from error
        names = ", ".join(node[:12] for node in self.nodes[number])
        raise DataError(f"no node that holds it is left ({names}): resume the run where all shards are held")


def _call(fn: Callable[..., object], *args: object) -> object:
    return fn(*args)


def _on(node: str, fn: Callable[..., object], *args: object) -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(_call).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
    return task.remote(fn, *args)
