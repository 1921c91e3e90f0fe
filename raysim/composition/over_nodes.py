"""How long detection takes on several nodes, foretold from what its stages take on one.

    T(n) = (wall - busy / c) tasks(n) / tasks(1) + busy / C + 8 (L(n) + A(n)) / B

wall: seconds of a stage on one node of c cores, of which its tasks' own work, `busy` core-seconds, is divided among all C
cores of n nodes; what is left is the server's: it starts tasks and puts their results together, one after the other, so the
seconds grow with their number. L(n): bytes over the busiest link in one direction before the tasks can work, from where rows
lie and what the stage reads; A(n): bytes of their answers to the server, which come after; B: bits a second that transfers
reach (`LINK_SHARE`). A stage that is cut into fewer tasks than there are cores is divided by as many.

Where tasks read whole columns, a node works on one task while the tiles of its next one come:

    max(busy / C, 8 L(n) / B) + min(busy / C, 8 L(n) / B) / (tasks(n) / n)

stands for these two terms. Nothing else overlaps: of a sum, partial sums cross when all have been formed, answers when they have
been added up. Columns that a stage before has brought together do not cross again, and sums of them are formed where they lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from raysim.matrix.row_sums import Cut, cut_of_sum

Part = Literal["sum", "float64 sum", "centre", "columns", "ordered columns"]

COLUMNS: tuple[Part, ...] = ("columns", "ordered columns")

READS: Mapping[str, tuple[Part, ...]] = {
    **dict.fromkeys(("combine", "faa_dl"), ("sum",)),
    **dict.fromkeys(("gram", "distances", "signs", "counts", "standardised_gram"), ("columns",)),
    **dict.fromkeys(("order_statistics", "sign_vote"), ("ordered columns",)),
    **dict.fromkeys(("ipm", "sign_flip"), ("float64 sum",)),
    "alie": ("float64 sum", "centre", "float64 sum"),
    "min_max": ("float64 sum", "centre", "float64 sum", "columns"),
}
"""Stage -> what it needs from other nodes, one after the other: sums of rows, rounded to float32 or not; that all get a centre
[d] float64; whole columns, whose answers are small or, from ordered ones, a number for each. Of attacks, those named. Other
stages of defenses: next to nothing, since the global model lies on every node that trained from it.
"""

LINK_SHARE = 0.9
"""Of a link's rate, what object transfers reach: `raysim bench nodes`, a copy of the matrix on two nodes .92, on four .88."""


@dataclass(frozen=True)
class OneNode:
    """A stage on one node of `cores`: seconds as the server saw them, those of its tasks together, and their number."""

    stage: str
    wall_s: float
    busy_s: float
    cores: float
    tasks: int = 1


@dataclass(frozen=True)
class Rows:
    """The matrix [clients, parameters] float32, in so many column shards; row blocks: how many of them there are on n nodes."""

    clients: int
    parameters: int
    shards: int
    blocks: int


@dataclass(frozen=True)
class Nodes:
    """Where it is to be done. workers: of all nodes together; cores: what these are worth beside one (default: as many); bits_per_s:
    of each node's link, in each direction.
    """

    count: int
    workers: int
    bits_per_s: float = math.inf
    cores: float | None = None

    @property
    def speed(self) -> float:
        """Cores that their work is divided by."""
        return self.workers if self.cores is None else self.cores


class Crossing(NamedTuple):
    """Bytes over the busiest link: before the tasks can work, and of their answers."""

    before: float
    answers: float


def cut_of(rows: Rows, nodes: Nodes) -> Cut:
    """Into what a sum of all rows is cut: see row_sums.py."""
    width = -(-rows.parameters // rows.shards)
    homes = homes_of(rows, nodes)
    return cut_of_sum(rows.shards, width, homes, nodes.workers, rows=rows.clients, tiles=rows.blocks)


def only_columns(stage: str) -> bool:
    """Whether it reads whole columns and does nothing besides."""
    return READS.get(stage, ()) in {(part,) for part in COLUMNS}


def homes_of(rows: Rows, nodes: Nodes) -> int:
    """Nodes that have rows."""
    return max(1, min(nodes.count, rows.blocks))


def tasks_of(stage: str, rows: Rows, nodes: Nodes) -> int:
    """Tasks that a stage which is cut into several has on n nodes.

    A sum: for each group one on every node that has rows, and those that add these up.
    """
    cut, homes = cut_of(rows, nodes), homes_of(rows, nodes)
    summed = cut.groups * (homes + (cut.pieces if homes > 1 else 0))
    parts = READS.get(stage)
    if parts is None:
        return rows.blocks
    return sum(rows.shards if part in COLUMNS else 0 if part == "centre" else summed for part in parts)


def crossing(stage: str, rows: Rows, nodes: Nodes) -> Crossing:
    """L(n) and A(n) of K rows of d float32 that lie evenly on n nodes, which take whole shards of the columns, or what sums are cut into.

    Sums: a node that adds up c of the columns gets the partial sums of all others, 8 c (n - 1) in float64; the server the
    others' results, 4 d (n - 1) / n in float32. A centre leaves the server for all others, 8 d (n - 1). Columns: of the c
    columns that a node takes, all rows but its own, 4 K c (n - 1) / n; of ordered ones the others' results come to the
    server as well.

    >>> crossing("combine", Rows(48, 1000, 4, 4), Nodes(2, 2))
    Crossing(before=4000.0, answers=2000.0)
    """
    before, answers = 0.0, 0.0
    for part in READS.get(stage, ()) if nodes.count > 1 else ():
        of_part = _crossing(part, rows, nodes)
        before, answers = before + of_part.before, answers + of_part.answers
    return Crossing(before, answers)


def _crossing(part: Part, rows: Rows, nodes: Nodes) -> Crossing:
    n, d, others = nodes.count, rows.parameters, homes_of(rows, nodes) - 1
    results = 4 * d * (n - 1) / n
    if part == "centre":
        return Crossing(8 * d * others, 0.0)
    if part in COLUMNS:
        widest = d * -(-rows.shards // n) / rows.shards
        return Crossing(4 * rows.clients * widest * (n - 1) / n, 0.0 if part == "columns" else results)
    cut = cut_of(rows, nodes)
    widest = d * min(1.0, -(-cut.groups * cut.pieces // n) * cut.shards / (rows.shards * cut.pieces))
    return Crossing(8 * widest * others, results if part == "sum" else 2 * results)


def crossing_s(stage: str, rows: Rows, nodes: Nodes) -> tuple[float, float]:
    """Seconds of both, alone."""
    before, answers = (8 * size / (LINK_SHARE * nodes.bits_per_s) for size in crossing(stage, rows, nodes))
    return before, answers


def stage_s(one: OneNode, rows: Rows, nodes: Nodes, tasks: int, *, brought: bool = False) -> float:
    """T(n) of one stage, of so many tasks on n nodes. brought: a stage before has brought its columns together."""
    if not one.tasks:
        return one.wall_s
    before, after = min(one.cores, one.tasks), min(nodes.speed, tasks)
    divided = min(one.busy_s, one.wall_s * before)
    server, work = (one.wall_s - divided / before) * tasks / one.tasks, divided / after
    arrives, answers = crossing_s(one.stage, rows, nodes)
    arrives = 0.0 if brought else arrives
    if not only_columns(one.stage):
        return server + work + arrives + answers
    of_a_node = max(1.0, tasks / nodes.count)
    return server + max(work, arrives) + min(work, arrives) / of_a_node + answers


def detection_s(stages: Iterable[tuple[OneNode, int]], rows: Rows, nodes: Nodes) -> float:
    """T(n) of a whole defense: its stages, one after the other, each with its tasks on n nodes."""
    total, brought = 0.0, False
    for one, tasks in stages:
        total += stage_s(one, rows, nodes, tasks, brought=brought)
        brought |= only_columns(one.stage)
    return total
