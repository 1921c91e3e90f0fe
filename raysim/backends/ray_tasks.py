"""What Ray is told of one task, and what it tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

import ray
import ray.experimental
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysim.backends.base import Begun, Needs
from raysim.backends.placement import Node, Placed
from raysim.backends.telemetry import Span

if TYPE_CHECKING:
    from raysim.backends.placement import Handle

Strategy: TypeAlias = str | NodeAffinitySchedulingStrategy


def at(node: Node) -> Strategy:
    """On this node, or on another if it has died."""
    return NodeAffinitySchedulingStrategy(node.id, soft=True)


def ended(begun: Begun) -> bool:
    """Whether a task that was begun is done or has failed."""
    references, _ = cast("tuple[list[Handle], object]", begun)
    return bool(ray.wait(references[-1:], timeout=0)[0])


def spilled(placed: Sequence[Placed]) -> list[bool]:
    """Whether each was written to disk, for want of memory; of what this process owns."""
    found = ray.experimental.get_local_object_locations([one.object for one in placed])
    return [bool(found.get(one.object, {}).get("did_spill", False)) for one in placed]


def all_stores_bytes() -> float:
    """Of all nodes' object stores together, now."""
    held: float = ray.cluster_resources().get("object_store_memory", 0.0)
    return held


def answered(references: list[Handle]) -> tuple[object, tuple[Span, list[int]]]:
    """What `handed_back` returned behind the kept values: the answer, its span, the bytes of each kept value."""
    answer, about = ray.get(references)
    return answer, cast("tuple[Span, list[int]]", about)


def task_options(keep: int, needs: Needs) -> dict[str, float]:
    """Ray's options for a task that returns what `handed_back` says."""
    options: dict[str, float] = {"num_returns": keep + 2, "num_cpus": needs.cpus, "num_gpus": needs.gpus}
    return {**options, "memory": needs.memory} if needs.memory else options
