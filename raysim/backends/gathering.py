"""Column shards brought together while rows are still being made.

Gram products and order statistics need all rows of a column: of a matrix that lies on N nodes, (N - 1) / N of the bytes
must cross the network. What has landed can cross while other clients train; then the column tasks wait for the last
rows alone. Nothing else changes: a task reads the same tiles, whoever brought them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from raysim.backends.base import Begun, Reference
from raysim.backends.placement import Node, Placed

STAGE = "gather"
"""The stage's name in the spans: its tasks end when their tiles are there, the whole is what is waited after the last row."""


@dataclass(frozen=True)
class Courier:
    """How tiles are brought: to(number, tiles, node) begins it, `ended` tells whether it is done, `spilled` whether a tile
    lies on disk.
    """

    to: Callable[[int, Sequence[Placed], Node], Begun]
    ended: Callable[[Begun], bool]
    spilled: Callable[[Placed], bool]


class Gathering:
    """One round's: every column shard has a node, in proportion to CPUs, to which its tiles are brought as they land.

    most_bytes: what may be under way at a time. What has to wait when the last row lands, and what has been spilled to disk, is
    left to the tasks that read it.
    """

    def __init__(self, courier: Courier, shards: int, nodes: Sequence[Node], most_bytes: int) -> None:
        self.owners = dealt(shards, nodes)
        self.begun: list[Begun] = []
        self._courier, self._most_bytes = courier, most_bytes
        self._waiting: deque[tuple[Node, list[Placed], int]] = deque()
        self._under_way: list[tuple[Begun, int]] = []

    def land(self, tiles: Sequence[Reference]) -> None:
        """The tiles of a row block have been made: one a shard, and the buffers', which stay."""
        for owner in dict.fromkeys(self.owners):
            load, size = list[Placed](), 0
            for tile, node in zip(cast("Sequence[Placed]", tiles), self.owners, strict=False):
                if node is not owner or owner.name in tile.nodes:
                    continue
                if load and size + tile.size > self._most_bytes:
                    self._waiting.append((owner, load, size))
                    load, size = [], 0
                load.append(tile)
                size += tile.size
            if load:
                self._waiting.append((owner, load, size))
        self._go_on()

    def _go_on(self) -> None:
        self._under_way = [part for part in self._under_way if not self._courier.ended(part[0])]
        while self._waiting:
            owner, load, size = self._waiting[0]
            if self._under_way and size + sum(other for _, other in self._under_way) > self._most_bytes:
                return
            self._waiting.popleft()
            load = [tile for tile in load if not self._courier.spilled(tile)]
            if load:
                self.begun.append(self._courier.to(len(self.begun), load, owner))
                self._under_way.append((self.begun[-1], sum(tile.size for tile in load)))


def dealt(shards: int, nodes: Sequence[Node]) -> list[Node]:
    """The node of every shard: the one with fewest for its CPUs, then the first."""
    given = [0] * len(nodes)
    found = []
    for _ in range(shards):
        place = min(range(len(nodes)), key=lambda place: (given[place] / max(nodes[place].cpus, 1.0), place))
        given[place] += 1
        found.append(nodes[place])
    return found


def arrived(*tiles: object) -> None:
    """What a task does whose tiles have been brought to it."""
