"""How long detection takes on several nodes, foretold from what its stages take on one: a model of three terms.

    T(n) = (wall - busy / c) + busy / C + 8 L(n) / B

wall: seconds of a stage on one node of c cores, of which its tasks' own work, `busy` core-seconds, is divided among all C
cores of n nodes; what is left is starting tasks and waiting for the server, which more nodes do not shorten. L(n): bytes
over the busiest link in one direction, from where rows lie and what the stage reads (`link_bytes`); B: bits a second. A
stage that is cut into fewer pieces than there are cores is divided by as many. Nothing overlaps in the model, and pieces are
alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Reads = Literal["sums", "columns"]

READS: Mapping[str, Reads] = {
    **dict.fromkeys(("combine", "faa_dl"), "sums"),
    **dict.fromkeys(("gram", "distances", "order_statistics", "sign_vote"), "columns"),
}
"""Stage -> what it needs from other nodes: sums of rows, or whole columns. Others: next to nothing, since the global model lies on
every node that trained from it.
"""


@dataclass(frozen=True)
class OneNode:
    """A stage on one node of `cores`: seconds as the server saw them, and those of its tasks together. pieces: in which its
    tasks' work can be done at the same time, on one node or several.
    """

    stage: str
    wall_s: float
    busy_s: float
    cores: int
    pieces: float = math.inf


@dataclass(frozen=True)
class Nodes:
    """Where it is to be done. cores: of all nodes together; bits_per_s: of each node's link, in each direction."""

    count: int
    cores: int
    bits_per_s: float = math.inf


def link_bytes(stage: str, clients: int, parameters: int, nodes: int) -> float:
    """L(n) of K rows of d float32 that lie evenly on n nodes.

    Sums: each node adds up its part of the columns from the others' partial sums in float64, 8 d (n - 1) / n^2 from
    each, 8 d (n - 1) / n to each; the server's link brings the others' results in float32 as well, 4 d (n - 1) / n.
    Columns: of the 1 / n of the columns that a node takes, all rows but its own come to it, 4 K d (n - 1) / n^2.

    >>> link_bytes("combine", 48, 1000, 2)
    6000.0
    """
    others = nodes - 1
    reads = READS.get(stage)
    if reads == "sums":
        return 12 * parameters * others / nodes
    if reads == "columns":
        return 4 * clients * parameters * others / nodes**2
    return 0.0


def stage_s(one: OneNode, clients: int, parameters: int, nodes: Nodes) -> float:
    """T(n) of one stage."""
    before, after = min(one.cores, one.pieces), min(nodes.cores, one.pieces)
    divided = min(one.busy_s, one.wall_s * before)
    crossing = 8 * link_bytes(one.stage, clients, parameters, nodes.count) / nodes.bits_per_s
    return one.wall_s - divided / before + divided / after + crossing


def detection_s(stages: Sequence[OneNode], clients: int, parameters: int, nodes: Nodes) -> float:
    """T(n) of a whole defense: its stages, one after the other."""
    return sum(stage_s(one, clients, parameters, nodes) for one in stages)
