"""The sections of the scaling report for one view: each gives Markdown lines, or one sentence where data are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from raysim.composition.registry import defense_title
from raysim.formats import significant
from raysim.studies import markdown
from raysim.studies.scaling.figures import CAPTIONS
from raysim.studies.scaling.fit import Growth, Ratio, limit_ratio, shares, strong_scaling, weak_scaling
from raysim.studies.scaling.read import COPY, GRAM, Measured, PeakMemory, Setup, Subject
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.scaling.view import LIMIT_LABELS, ScalingView
from raysim.studies.stages import WHOLE
from raysim.studies.study import picture

GIB, MIB = 2**30, 2**20

OFF_LINE = 0.2
"""Beyond this share of the line a median does not fit a power law."""

Drawn = Mapping[str, str]
"""Kind of figure -> its name on the page, of those that were drawn."""


class Fits:
    """The power laws of all stages, to be looked up."""

    def __init__(self, laws: Iterable[Growth]) -> None:
        self._along_clients = {(g.subject, g.parameters, g.nodes): g for g in laws if g.along == "clients"}

    def of(self, view: ScalingView, defense: str, stage: str, nodes: int) -> Growth | None:
        """The growth in K, None if there were fewer than three."""
        return self._along_clients.get((Subject(view.setup, defense, stage), view.parameters, nodes))


def seconds(view: ScalingView, fits: Fits, drawn: Drawn) -> list[str]:
    """Whole seconds of every defense by K."""
    head = ["defense", *_nodes_head(view), *_clients_head(view), "growth", "last step", "off"]
    rows = []
    for defense, stage, label in view.lines():
        for nodes in view.nodes:
            cells = [_spread(view.get(defense, stage, clients, nodes)) for clients in view.clients]
            if any(cells):
                rows.append(
                    [label, *_nodes_cell(view, nodes), *cells, *_law(fits.of(view, defense, stage, nodes))]
                )
    few = [] if len(view.clients) > 2 else ["Fewer than three K: no growth exponent is fitted.", ""]
    lines = ["#### Seconds per round", "", *table(head, rows), *few]
    return lines + _figures(drawn, "runtime", "growth")


def limits(view: ScalingView) -> list[str]:
    """Every defense against the limits, repeat by repeat."""
    head = ["defense", *_nodes_head(view), *_clients_head(view)]
    rows = []
    for defense in view.defenses:
        for nodes in view.nodes:
            cells = [_limits_cell(view, defense, clients, nodes) for clients in view.clients]
            if any(cells):
                rows.append([defense_title(defense), *_nodes_cell(view, nodes), *cells])
    if not rows:
        return ["No limits were measured.", ""]
    title = "#### Times the Gram product (times the copy)"
    return [title, "", "Median over the repeats of the ratio in one repeat.", "", *table(head, rows)]


def stages(view: ScalingView, fits: Fits, drawn: Drawn) -> list[str]:
    """Each stage at the largest K."""
    lines = []
    for nodes in view.nodes:
        moving = nodes > 1
        head = [
            "defense, stage",
            "s",
            "share",
            "growth",
            "last step",
            "off",
            "tasks",
            "nodes used",
            "peak MiB",
        ]
        rows = []
        for whole in view.largest(nodes).values():
            parts = view.stages(whole.defense, whole.size.clients, nodes)
            for entry, part in zip((whole, *parts), (1.0, *shares(parts)), strict=True):
                name = f"**{view.label(whole)}**" if entry is whole else entry.stage
                peak = f"{entry.peak_memory_bytes / MIB:,.0f}" if entry.peak_memory_bytes else "-"
                row = [name, _spread(entry), f"{100 * part:.0f} %"]
                row += _law(fits.of(view, entry.defense, entry.stage, nodes))
                row += [str(entry.tasks), str(entry.nodes_used), peak]
                if moving:
                    row.append(_moved_cell(parts if entry is whole else [entry]))
                rows.append(row)
        head += ["MB moved (of matrix)"] if moving else []
        lines += [f"#### Stages at K = {view.clients[-1]}, {_count(nodes, 'node')}", "", *table(head, rows)]
    note = (
        "Share: of the sum of the stages' medians. Peak MiB: resident memory of the largest single process during the"
        " stage."
    )
    return [*lines, note, "", *_figures(drawn, "split")]


def maps(view: ScalingView, drawn: Drawn) -> list[str]:
    """Maps alone beside maps and autoencoder, by K; nothing if no defense has both."""
    rows = []
    for defense in view.with_autoencoder():
        for nodes in view.nodes:
            at = [view.maps_seconds(defense, clients, nodes) for clients in view.clients]
            medians = [
                None if pair is None else tuple(float(np.median(part)) for part in pair) for pair in at
            ]
            cells = [
                "" if m is None else f"{significant(m[0])} / {significant(m[1])} ({m[1] / m[0]:.2f} x)"
                for m in medians
            ]
            rows.append([defense_title(defense), *_nodes_cell(view, nodes), *cells])
    if not rows:
        return []
    head = ["defense", *_nodes_head(view), *_clients_head(view)]
    lines = ["#### Maps alone / maps and autoencoder (s)", "", *table(head, rows)]
    return lines + _figures(drawn, "maps")


def nodes(view: ScalingView, drawn: Drawn) -> list[str]:
    """Strong and weak scaling over nodes."""
    if len(view.nodes) < 2:
        alone = view.nodes[0] == 1
        missing = "no speed-up over nodes, no bytes between them" if alone else "no speed-up over nodes"
        return [f"Measured on {_count(view.nodes[0], 'node')} only: {missing}.", ""]
    strong, weak = [], []
    for defense, stage, label in view.lines():
        faster = {s.size: s for s in strong_scaling(view.sizes(defense, stage))}
        kept = {w.size: w.efficiency for w in weak_scaling(view.sizes(defense, stage))}
        for count in view.nodes:
            sizes = [view.size(clients, count) for clients in view.clients]
            if any(size in faster for size in sizes):
                cells = [
                    ""
                    if (found := faster.get(size)) is None
                    else f"{_ratio(found.speed_up)}, {100 * found.efficiency:.0f} %"
                    + (f" (over {found.base} nodes)" if found.base > 1 else "")
                    for size in sizes
                ]
                strong.append([label, str(count), *cells])
            if any(size in kept for size in sizes):
                weak.append([label, str(count), *(_ratio(kept[s]) if s in kept else "" for s in sizes)])
    head = ["defense", "nodes", *_clients_head(view)]
    lines = ["#### Strong scaling: speed-up over one node, efficiency", ""]
    if strong:
        lines += ["In brackets: slow quartile over fast quartile, both ways.", "", *table(head, strong)]
    else:
        lines += ["No K was measured on two numbers of nodes.", ""]
    if weak:
        lines += ["#### Weak scaling: T(K / n clients, 1 node) / T(K clients, n nodes)", ""]
        lines += ["Work that grows as K^p can reach n^(1 - p) at most: 1 for p = 1, 1/n for p = 2.", ""]
        lines += table(head, weak)
    else:
        lines += ["No weak scaling: no K on one node has a matching n * K on n nodes.", ""]
    return lines + _figures(drawn, "nodes")


def moved(view: ScalingView, drawn: Drawn) -> list[str]:
    """Bytes between nodes, a round."""
    several = [count for count in view.nodes if count > 1]
    if not several:
        return []
    rows = []
    for defense in view.defenses:
        for count in several:
            cells = [_moved_cell(view.stages(defense, clients, count)) for clients in view.clients]
            if any(cells):
                rows.append([defense_title(defense), str(count), *cells])
    lines = ["#### MB moved between nodes a round (share of the matrix)", ""]
    lines += table(["defense", "nodes", *_clients_head(view)], rows)
    return lines + _figures(drawn, "moved")


def spilled(view: ScalingView) -> list[str]:
    """Where the object store did not suffice; nothing if it did."""
    rows = []
    for (defense, stage, size), m in view.found.items():
        if m.spilled_bytes > 0 and (stage == WHOLE or defense == LIMITS):
            what = (
                f"while the matrix and the limits were made ({stage})"
                if defense == LIMITS
                else f"in {defense_title(defense)}"
            )
            rows.append(
                f"- K = {size.clients}, {_count(size.nodes, 'node')}, {what}: the object store spilled"
                f" {m.spilled_bytes / GIB:.2f} GiB; times on this matrix include the disk."
            )
    return ["#### Spilled to disk", "", *rows, ""] if rows else []


def memory(view: ScalingView, found: Sequence[PeakMemory]) -> list[str]:
    """Peak memory of each node, by K."""
    here = [m for m in found if m.setup == view.setup and m.size.parameters == view.parameters]
    if not here:
        return ["The memory of nodes was not measured.", ""]
    at = {(m.defense, m.size.nodes, m.node, m.size.clients): m for m in here}
    clients = sorted({m.size.clients for m in here})
    rows = []
    for defense, count, node in _in_order(view, here):
        cells = [
            ""
            if (m := at.get((defense, count, node, K))) is None
            else f"{m.worker_bytes / GIB:.2f} / {m.largest_worker_bytes / GIB:.2f} / {m.store_bytes / GIB:.2f}"
            for K in clients
        ]
        rows.append([defense_title(defense), str(count), str(node), *cells])
    head = ["defense", "nodes", "node", *(f"K = {K}" for K in clients)]
    title = "#### Peak memory of each node: all workers / largest worker / object store (GiB)"
    note = (
        "Workers: peak of their resident memory without what they share, in a round of its own after the timed one;"
        " object store: in use after the round."
    )
    return [title, "", note, "", *table(head, rows)]


def _timed(subject: Subject) -> bool:
    """Whether it is a defense's or a limit, not how the matrix was made."""
    return subject.defense != LIMITS or subject.stage in LIMIT_LABELS


def _in_order(view: ScalingView, found: Sequence[PeakMemory]) -> list[tuple[str, int, int]]:
    """(defense, nodes, node), defenses in the order of the other tables."""
    keys = {(m.defense, m.size.nodes, m.node) for m in found if m.defense in view.defenses}
    return sorted(keys, key=lambda key: (view.defenses.index(key[0]), *key[1:]))


def growth_in_parameters(setup: Setup, laws: Iterable[Growth]) -> list[str]:
    """Exponents in d; one sentence where no stage was measured at three."""
    found = [g for g in laws if g.along == "parameters" and g.subject.setup == setup and _timed(g.subject)]
    top: dict[tuple[Subject, int], int] = {}
    for g in found:
        top[g.subject, g.nodes] = max(g.clients, top.get((g.subject, g.nodes), 0))
    rows = [
        [defense_title(g.subject.defense), g.subject.stage, str(g.clients), str(g.nodes), *_law(g)]
        for g in sorted(found, key=lambda g: (g.nodes, g.subject.defense != LIMITS))
        if g.clients == top[g.subject, g.nodes]
    ]
    if not rows:
        return ["Fewer than three d: no growth in d is fitted.", ""]
    head = ["defense", "stage", "K", "nodes", "growth in d", "last step", "off"]
    return ["### Growth in d, at the largest K", "", *table(head, rows)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, and an empty one."""
    return [markdown.table(head, rows), ""]


def _spread(entry: Measured | None) -> str:
    if entry is None:
        return ""
    low, high = entry.quartiles_s
    return f"{significant(entry.median_s)} [{significant(low)}, {significant(high)}]"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _law(growth: Growth | None) -> list[str]:
    """Growth, last step, off."""
    if growth is None:
        return ["-", "-", "-"]
    law = growth.law
    mark = " †" if law.largest_deviation > OFF_LINE else ""
    exponent = f"{_signed(law.exponent)} [{_signed(law.low)}, {_signed(law.high)}]{mark}"
    return [exponent, _signed(law.last_exponent), f"{100 * law.largest_deviation:.0f} %"]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _limits_cell(view: ScalingView, defense: str, clients: int, nodes: int) -> str:
    whole = view.get(defense, WHOLE, clients, nodes)
    if whole is None:
        return ""
    gram, copy = (limit_ratio(whole, view.get(LIMITS, limit, clients, nodes)) for limit in (GRAM, COPY))
    if gram is None and copy is None:
        return ""
    return " ".join(
        [
            "-" if gram is None else significant(gram.value),
            "" if copy is None else f"({significant(copy.value)})",
        ]
    )


def _moved_cell(entries: Sequence[Measured]) -> str:
    """Megabytes moved by these stages of one defense, and their share of the matrix."""
    if not entries:
        return ""
    total = sum(float(np.median(entry.bytes_moved)) for entry in entries)
    return f"{total / 1e6:,.1f} ({100 * total / entries[0].size.matrix_bytes:.1f} %)"


def _clients_head(view: ScalingView) -> list[str]:
    return [f"K = {clients}" for clients in view.clients]


def _nodes_head(view: ScalingView) -> list[str]:
    return ["nodes"] if len(view.nodes) > 1 else []


def _nodes_cell(view: ScalingView, nodes: int) -> list[str]:
    return [str(nodes)] if len(view.nodes) > 1 else []


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _figures(drawn: Drawn, *kinds: str) -> list[str]:
    """Those of these kinds that were drawn."""
    return [line for kind in kinds if kind in drawn for line in (picture(drawn[kind], CAPTIONS[kind]), "")]
