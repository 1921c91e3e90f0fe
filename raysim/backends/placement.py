"""Where references lie, what has to be brought to a task, and the node a task is sent to.

Kept results lie on the node of the task that made them, and everything else follows from where tasks ran: nothing
here asks Ray. So it is not seen when Ray drops a copy because its object store is full, and fetches it again, or
when it brings arguments to a node and then runs the task on another, as it may where it chooses the node itself.
Ray carries values below 100 KB inside its messages; they are counted as if they lay where they were made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raysim.backends.base import Needs
from raysim.backends.telemetry import Span, num_bytes

if TYPE_CHECKING:
    from ray import ObjectRef

    Handle = ObjectRef[object]
    """Ray's own handle of a value in its object store."""

NEARLY_MOST = 0.5
"""A node with this share of what the best one holds is as good: tasks are dealt among such nodes.

Column tasks read tiles of all nodes, hardly ever exactly equal shares: sent to the largest, all would queue there.
"""

MOST_OF_ITS_SHARE = 2
"""A node gets at most this multiple of its share of a stage's tasks (by CPUs), and at least one per CPU.

Where a few nodes hold everything (the clients' results on the one node with GPUs), the others would stand idle.
"""


@dataclass(eq=False)
class Placed:
    """A reference: the object, its bytes of arrays, and the nodes that hold it.

    made: a task made it and it was left there. Published values are not: they are there to be sent around. spilled: it is
    known to have been written to disk.
    """

    object: Handle
    size: int
    nodes: set[str]
    made: bool = False
    spilled: bool = False


@dataclass(frozen=True)
class Node:
    """A node and what lasting reservations leave of it for tasks. name: as in spans; id: as Ray wants it."""

    name: str
    id: str
    cpus: float
    gpus: float = 0.0
    memory: float = 0.0

    def offers(self, needs: Needs) -> bool:
        """Whether a task with these needs can ever run here."""
        slack = 1e-6
        return (
            needs.cpus <= self.cpus + slack
            and needs.gpus <= self.gpus + slack
            and needs.memory <= self.memory + slack
        )


def bring(arguments: Sequence[object], node: str, origin: str) -> int:
    """Bytes of a task's arguments that were brought to its node, which is noted to hold them from now on.

    Arrays given by value come from the `origin`, the node of the process that starts tasks, every time.
    """
    moved = 0
    for argument in arguments:
        if not isinstance(argument, Placed):
            moved += 0 if node == origin else num_bytes(argument)
        elif node not in argument.nodes:
            argument.nodes.add(node)
            moved += argument.size
    return moved


def seen(
    span: Span,
    arguments: Sequence[object],
    answer: object,
    origin: str,
    *,
    restored: int = 0,
) -> Span:
    """A task's span with what the process that started it, on node `origin`, knows of its bytes."""
    returned = 0 if span.node == origin else num_bytes(answer)
    moved = bring(arguments, span.node, origin)
    return replace(span, bytes_moved=moved, bytes_returned=returned, bytes_restored=restored)


def homes(references: Sequence[Placed], origin: str = "") -> list[str]:
    """The node where each lies: of several, the one that holds most bytes of them all, then `origin`, the node of the process
    that starts tasks, to which their answers go, then the first by name.
    """
    held: Counter[str] = Counter()
    for reference in references:
        held.update(dict.fromkeys(reference.nodes, reference.size))
    return [
        min(reference.nodes, key=lambda node: (-held[node], node != origin, node)) for reference in references
    ]


def beside_data(items: Sequence[Sequence[object]], needs: Needs, nodes: Sequence[Node]) -> list[Node | None]:
    """For every task, the node that holds most bytes of its arguments; None: it is Ray's to place.

    Counted are results that tasks left behind. First come tasks that one node alone holds everything for: they go there, up to
    MOST_OF_ITS_SHARE. The others are dealt: of the nodes that hold all of it or, if none does, nearly as much as the best, to
    the one whose tasks read fewest bytes for its CPUs, then the one to which least is brought that is not brought there
    for another, then the first by name. Out are nodes that cannot meet the needs.
    """
    if len(nodes) == 1:
        return [None] * len(items)
    able = {node.name: node for node in nodes if node.offers(needs)}
    cpus = {name: max(node.cpus, 1.0) for name, node in able.items()}
    share = MOST_OF_ITS_SHARE * len(items) / max(sum(cpus.values()), 1.0)
    given, bytes_read = dict.fromkeys(able, 0), dict.fromkeys(able, 0)
    brought: dict[str, set[Placed]] = {name: set() for name in able}
    read = [{part for part in item if isinstance(part, Placed) and part.made} for item in items]
    candidates = [_nodes_of(made, able.keys()) for made in read]
    chosen: list[Node | None] = [None] * len(items)
    for number in sorted(range(len(items)), key=lambda number: len(candidates[number]) > 1):
        made = read[number]
        ranks = []
        for name in candidates[number]:
            if given[name] < max(cpus[name], share * cpus[name]):
                missing = sum(p.size for p in made if name not in p.nodes and p not in brought[name])
                ranks.append((bytes_read[name] / cpus[name], missing, name))
        if ranks:
            best = min(ranks)[-1]
            chosen[number] = able[best]
            given[best] += 1
            bytes_read[best] += sum(part.size for part in made)
            brought[best].update(part for part in made if best not in part.nodes)
    return chosen


def _nodes_of(made: set[Placed], able: Set[str]) -> list[str]:
    """The nodes that hold all of it or, if none does, nearly as much as the one that holds most."""
    held: Counter[str] = Counter()
    for part in made:
        held.update(dict.fromkeys(part.nodes & able, part.size))
    most = max(held.values(), default=0)
    enough = most if most == sum(part.size for part in made) else NEARLY_MOST * most
    return [name for name, size in held.items() if size >= enough]
