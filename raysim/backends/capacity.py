"""What a backend offers, and what client actors take of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLACK = 1e-9
"""By how much sums of shares may be off."""


@dataclass(frozen=True)
class NodeCapacity:
    """What one node has."""

    cpus: float
    gpus: float = 0.0

    def holds(self, cpus: float, gpus: float) -> float:
        """How many reservations of this many CPUs and this share of one GPU fit: none spans two GPUs.

        >>> NodeCapacity(cpus=8, gpus=2).holds(cpus=0, gpus=0.4)
        4
        """
        by_cpus = int(self.cpus / cpus + SLACK) if cpus else float("inf")
        whole, part = int(self.gpus), self.gpus % 1
        by_gpus = whole * int(1 / gpus + SLACK) + int(part / gpus + SLACK) if gpus else float("inf")
        return min(by_cpus, by_gpus)

    def without(self, cpus: float = 0.0, gpus: float = 0.0) -> NodeCapacity | None:
        """The node when these are taken, the GPUs' share of one of them; None if it does not have them."""
        left = NodeCapacity(self.cpus - cpus, self.gpus - gpus)
        return left if left.cpus >= -SLACK and left.gpus >= -SLACK else None


@dataclass(frozen=True)
class Capacity:
    """What the backend offers, for the `auto` rules and the refusal of over-subscription."""

    cpus: int = 1
    gpus: float = 0.0
    object_store_bytes: int = 0
    """0: no object store (in-process)."""
    nodes: tuple[NodeCapacity, ...] = ()
    """Each node's part; (): one node has it all."""
    gpu_memory_bytes: int = 0
    """Memory of the smallest GPU; 0: not known."""
    most_cpus: float | None = None
    most_gpus: float | None = None
    """What an autoscaler brings the cluster to, at most; None: it has not told."""
    elsewhere: bool = False
    """Whether the work is done by other processes, perhaps on other machines, which alone know their devices."""

    def workers(self, threads: int) -> int:
        """How many tasks of that many threads can run at the same time, at least one."""
        return max(1, self.cpus // threads)

    def holds(self, cpus: float, gpus: float, kept_gpus: Sequence[float] = ()) -> float:
        """How many reservations of this many CPUs and this share of one GPU fit beside what is kept.

        Kept are a CPU for detection tasks and `kept_gpus`, shares of one GPU each, where they cost least. Infinite
        if nothing is reserved; -1 if what is kept does not fit itself.
        """
        nodes = list(self.nodes or (NodeCapacity(self.cpus, self.gpus),))
        kept = [(0.0, gpu) for gpu in kept_gpus] + ([(1.0, 0.0)] if cpus else [])
        for cpu, gpu in kept:
            cheapest: tuple[float, int, NodeCapacity] | None = None
            for place, node in enumerate(nodes):
                left = node.without(cpu, gpu)
                if left is not None:
                    loss = node.holds(cpus, gpus) - left.holds(cpus, gpus) if cpus or gpus else 0.0
                    if cheapest is None or loss < cheapest[0]:
                        cheapest = (loss, place, left)
            if cheapest is None:
                return -1
            nodes[cheapest[1]] = cheapest[2]
        return sum(node.holds(cpus, gpus) for node in nodes)


@dataclass(frozen=True)
class ClientActors:
    """How many client actors there are, what each reserves, and who computes detection stages on GPUs.

    detection_gpus: shares of one GPU, an actor for each, which do so; (): nobody, unless `lend`: then the client
    actors do, on the devices they train on, while they wait for the next round.
    """

    count: int
    cpus: float = 0.0
    gpus: float = 0.0
    detection_gpus: tuple[float, ...] = ()
    lend: bool = False
    most: int = 0
    """How many there may be when machines join, if nothing is reserved; 0: their number stays."""
