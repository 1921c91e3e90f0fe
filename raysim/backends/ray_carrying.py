"""Objects brought to nodes of Ray before a task there needs them, by tasks that are given them and do nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from raysim.backends.base import Begun, Needs
from raysim.backends.gathering import STAGE as GATHER
from raysim.backends.gathering import arrived
from raysim.backends.placement import Node, Placed
from raysim.backends.ray_actors import objects
from raysim.backends.ray_tasks import at, task_options

if TYPE_CHECKING:
    from raysim.backends.placement import Handle

Started: TypeAlias = "tuple[list[Handle], Sequence[object]]"
"""What `begin` of the backend on Ray returns: (what the task will answer, its arguments)."""

BROADCAST = "broadcast"

WORTH_SENDING = 2**20
"""Bytes of a published value that is sent before it is asked for: less is there sooner than a task is begun."""


class Carrier:
    """task: the remote function of `run_task`, with so many threads."""

    def __init__(self, task: Any, threads: int) -> None:
        self._task, self._threads = task, threads

    def bring(self, number: int, tiles: Sequence[Placed], node: Node) -> Begun:
        """Begin to bring these to a node."""
        started: Started = self._carry(GATHER, number, tiles, node), tiles
        return started

    def broadcast(self, value: Placed, nodes: Collection[Node]) -> None:
        """Begin to bring a value to all of these nodes that are not known to hold it."""
        for number, node in enumerate(node for node in nodes if node.name not in value.nodes):
            self._carry(BROADCAST, number, [value], node)

    def _carry(self, stage: str, number: int, values: Sequence[Placed], node: Node) -> list[Handle]:
        task = self._task.options(**task_options(0, Needs(cpus=0)), scheduling_strategy=at(node))
        carried: list[Handle] = task.remote(arrived, stage, number, 0, 0, self._threads, *objects(values))
        return carried


def worth_sending(value: Placed) -> bool:
    """Whether a published value takes longer to come than to be sent for."""
    return value.size >= WORTH_SENDING
