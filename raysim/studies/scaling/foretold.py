"""Seconds on several nodes, foretold by over_nodes.py from those on one, beside what was measured."""

from __future__ import annotations

from raysim.composition.over_nodes import (
    LINK_SHARE,
    READS,
    Nodes,
    OneNode,
    Rows,
    crossing_s,
    detection_s,
    only_columns,
)
from raysim.formats import significant
from raysim.studies import markdown
from raysim.studies.scaling.read import COPY, PRODUCTS, OneMatrix
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import WHOLE


def foretold(view: OneMatrix) -> str:
    """What over_nodes.py makes of one node's stages, beside what was measured on more, at the largest K."""
    if view.nodes[0] != 1:
        return ""
    rows = []
    for defense, alone in view.largest(1).items():
        for nodes in view.nodes[1:]:
            if (whole := view.found.get((defense, WHOLE, view.size(alone.size.clients, nodes)))) is None:
                continue
            told, links = from_one_node(view, defense, alone.size.clients, nodes)
            measured = whole.wall_s.median
            numbers = [significant(value) for value in (measured, told, links)]
            rows.append([view.label(alone), str(nodes), *numbers, f"{measured / told:.2f}"])
    if not rows:
        return ""
    head = [view.what, "nodes", "measured (s)", "foretold (s)", "links alone (s)", "measured / foretold"]
    note = (
        "Foretold from the seconds on one node, by the model of `raysim plan --over-nodes` (`raysim.composition.over_nodes`), for as"
        " many tasks as there were: their own work is divided by the cores that there are (of one machine by what *products alone*"
        " gain), the server's share grows with their number, and what must cross the busiest link is added; where tasks read"
        f" whole columns, they work while it crosses. Links alone: that, at {100 * LINK_SHARE:.0f} % of the rate."
    )
    return f"#### Foretold from one node, K = {view.clients[-1]}\n\n{markdown.table(head, rows)}\n\n{note}"


def from_one_node(view: OneMatrix, method: str, clients: int, nodes: int) -> tuple[float, float]:
    """Seconds of a method on so many nodes, as foretold from those on one, and those of its bytes on the links alone."""
    there = view.found[method, WHOLE, view.size(clients, nodes)]
    one, more = (view.found.get((LIMITS, PRODUCTS, view.size(clients, n))) for n in (1, nodes))
    gained = one.wall_s.median / more.wall_s.median if one and more else None
    rows = rows_of(view, clients, nodes)
    on = Nodes(nodes, there.workers, there.bits_per_s, gained and gained * one.cores if one else there.cores)
    stages, links, brought = [], 0.0, False
    for m in view.stages(method, clients, 1):
        as_many = view.found.get((method, m.stage, view.size(clients, nodes)), m)
        stages.append(
            (OneNode(m.stage, m.wall_s.median, m.busy_s, m.cores, m.tasks), as_many.tasks or m.tasks)
        )
        before, answers = crossing_s(m.stage, rows, on)
        links += answers + (0.0 if brought else before)
        brought |= only_columns(m.stage)
    return detection_s(stages, rows, on), links


def rows_of(view: OneMatrix, clients: int, nodes: int) -> Rows:
    """How the matrix lay: what reads columns has a task for each shard, what reads rows one for each block."""
    size = view.size(clients, nodes)
    at = [m for m in view.found.values() if m.size == size and m.tasks > 1 and m.stage != WHOLE]
    shards = [m.tasks for m in at if m.stage == COPY or only_columns(m.stage)]
    blocks = [m.tasks for m in at if m.defense != LIMITS and m.stage not in READS]
    return Rows(clients, view.parameters, max(shards, default=nodes), max(blocks, default=nodes))
