"""What Ray is told of one task, and what it tells of it."""

from __future__ import annotations

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


def spilled(tile: Placed) -> bool:
    """Whether a tile lies on disk, for want of memory."""
    found = ray.experimental.get_object_locations([tile.object])
    return any(place.get("did_spill", False) for place in found.values())


def answered(references: list[Handle]) -> tuple[object, tuple[Span, list[int]]]:
    """What `handed_back` returned behind the kept values: the answer, its span, the bytes of each kept value."""
    answer, about = ray.get(references)
    return answer, cast("tuple[Span, list[int]]", about)


def task_options(keep: int, needs: Needs) -> dict[str, float]:
    """Ray's options for a task that returns what `handed_back` says."""
    options: dict[str, float] = {"num_returns": keep + 2, "num_cpus": needs.cpus, "num_gpus": needs.gpus}
    return {**options, "memory": needs.memory} if needs.memory else options
