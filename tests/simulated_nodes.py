"""Nodes without a cluster: tasks run here, but are sent to nodes, and their arguments counted as moved, as on Ray."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raysim.backends.base import InProcessBackend, Needs, Reference
from raysim.backends.placement import Node, Placed, beside_data, bring, homes
from raysim.backends.telemetry import num_bytes
from raysim.matrix.updates import Updates


class SimulatedNodes(InProcessBackend):
    """`count` nodes of one CPU each, the first of which is the server's. moved: bytes by stage."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.nodes = [Node(name, name, 1.0) for name in "abcdefgh"[:count]]
        self.here, self.made = self.nodes[0].name, False
        self.moved: Counter[str] = Counter()

    def put(self, value: Any) -> Any:
        return Placed(super().put(value), num_bytes(value), {self.here}, self.made)

    def get(self, reference: Reference) -> Any:
        return super().get(reference.object if isinstance(reference, Placed) else reference)

    def homes(self, references: Any) -> list[str]:
        return homes(references)

    def map(self, stage: str, fn: Any, items: Any, *, keep: int = 0, needs: Needs = Needs()) -> list[Any]:
        server, results = self.here, []
        for item, node in zip(items, beside_data(items, needs, self.nodes), strict=True):
            self.here, self.made = node.name if node else server, True
            self.moved[stage] += bring(item, self.here, server)
            results += super().map(stage, fn, [item], keep=keep, needs=needs)
        self.here, self.made = server, False
        return results

    def spread(self, updates: Updates) -> None:
        """Say of these rows that block after block was made on one node after the other."""
        for number, block in enumerate(updates.blocks):
            for tile in block.tiles:
                tile.nodes, tile.made = {self.nodes[number % len(self.nodes)].name}, True


def travelled(updates: Updates) -> int:
    """Bytes of the rows' tiles that were brought to another node than theirs."""
    return sum(tile.size * (len(tile.nodes) - 1) for block in updates.blocks for tile in block.tiles)
