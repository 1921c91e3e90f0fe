"""The sections of a view's page: each is Markdown, or "" without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from raysim.composition.registry import defense_title
from raysim.formats import significant
from raysim.studies import markdown
from raysim.studies.fit import PowerLaw
from raysim.studies.scaling.figures import CAPTIONS
from raysim.studies.scaling.foretold import foretold
from raysim.studies.scaling.read import (
    COPY,
    GRAM,
    LIMIT_LABELS,
    PRODUCTS,
    Line,
    Measured,
    OneMatrix,
    Ratio,
    laws,
    shares,
    strong_scaling,
    weak_scaling,
)
from raysim.studies.scaling.read import MatrixSize as Size
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.stages import WHOLE
from raysim.studies.study import picture
from raysim.studies.table import Row

GIB, MIB = 2**30, 2**20

OFF_LINE = 0.2
"""Beyond this share of the line a median does not fit a power law."""

LAW = ["growth", "last step", "off"]
"""The headings of `_law`."""


def sections_of(view: OneMatrix, drawn: Mapping[str, str]) -> list[str]:
    """All of them. drawn: kind of figure -> its name on the page, of those that were drawn."""

    def with_figures(text: str, *kinds: str) -> str:
        return "\n\n".join([text, *(picture(drawn[kind], CAPTIONS[kind]) for kind in kinds if kind in drawn)])

    return [
        with_figures(seconds(view), "runtime", "growth"),
        limits(view),
        with_figures(stages(view), "split"),
        with_figures(maps(view), "maps"),
        with_figures(strong(view), "nodes"),
        foretold(view),
        weak(view),
        with_figures(moved(view), "moved"),
        spilled(view),
        memory(view),
    ]


def by_clients(
    view: OneMatrix,
    title: str,
    cell: Callable[[str, str, Size], str],
    *,
    lines: Sequence[Line] | None = None,
    head: Sequence[str] = (),
    more: Callable[[str, str, Size], Sequence[str]] = lambda method, stage, fixed: (),
) -> str:
    """A table under a title: a row for each line and number of nodes that has a cell, a column for each K, and more columns."""
    several, rows = len(view.nodes) > 1, []
    for method, stage, label in view.lines() if lines is None else lines:
        for nodes in view.nodes:
            cells = [cell(method, stage, view.size(clients, nodes)) for clients in view.clients]
            if any(cells):
                place = [label, *([str(nodes)] if several else [])]
                rows.append([*place, *cells, *more(method, stage, view.size(0, nodes))])
    if not rows:
        return ""
    columns = [view.what, *(["nodes"] if several else []), *(f"K = {clients}" for clients in view.clients)]
    return f"#### {title}\n\n{markdown.table([*columns, *head], rows)}"


def seconds(view: OneMatrix) -> str:
    """Whole seconds of every method by K, and the growth."""
    table = by_clients(
        view,
        "Seconds per round",
        lambda *at: _spread(view.found.get(at)),
        head=LAW,
        more=lambda *fixed: _law(view.laws.get(fixed)),
    )
    return table if len(view.clients) > 2 else f"{table}\n\nFewer than three K: no growth exponent is fitted."


def limits(view: OneMatrix) -> str:
    """Every method against the limits, repeat by repeat."""

    def cell(method: str, stage: str, size: Size) -> str:
        if (whole := view.found.get((method, stage, size))) is None:
            return ""
        gram, copy = (whole.over(view.found.get((LIMITS, limit, size))) for limit in (GRAM, COPY))
        if gram is None and copy is None:
            return ""
        first = "-" if gram is None else significant(gram.median)
        return first if copy is None else f"{first} ({significant(copy.median)})"

    lines = [line for line in view.lines() if line[0] != LIMITS]
    return by_clients(view, "Times the Gram product (times the copy)", cell, lines=lines)


def stages(view: OneMatrix) -> str:
    """Each stage at the largest K, a table for each number of nodes."""
    tables = []
    for nodes in view.nodes:
        rows, limited = [], view.limited(nodes)
        on_disk = any(m.to_disk_bytes.median or m.from_disk_bytes.median for m in view.at(nodes))
        for whole in view.largest(nodes).values():
            parts = view.stages(whole.defense, whole.size.clients, nodes)
            for entry, part in zip((whole, *parts), (1.0, *shares(parts)), strict=True):
                name = f"**{view.label(whole)}**" if entry is whole else entry.stage
                idle = 1 - entry.busy.median if entry.tasks else float("nan")
                peak = f"{entry.peak_memory_bytes / MIB:,.0f}" if entry.peak_memory_bytes else "-"
                row = [name, _spread(entry), f"{100 * part:.0f} %"]
                row += _law(view.laws.get((entry.defense, entry.stage, entry.size._replace(clients=0))))
                row += [
                    str(entry.tasks),
                    str(entry.nodes_used),
                    f"{100 * idle:.0f} %" if idle == idle else "-",
                ]
                row += [peak]
                own = parts if entry is whole else [entry]
                row += _disk(own) if on_disk else []
                if nodes > 1:
                    row += [_moved(own), _returned(own), *([_link(own)] if limited else [])]
                rows.append(row)
        head = [f"{view.what}, stage", "s", "share", *LAW, "tasks", "nodes used", "idle", "peak MiB"]
        head += ["MB spilled", "MB restored"] if on_disk else []
        if nodes > 1:
            head += ["MB moved (of matrix)", "MB returned", *(["link alone (s)"] if limited else [])]
        title = f"#### Stages at K = {view.clients[-1]}, {count(nodes, 'node')}"
        tables.append(f"{title}\n\n{markdown.table(head, rows)}")
    note = (
        "Share: of the sum of the stages' medians. Idle: share of the workers' time that no task took. Peak MiB: resident"
        " memory of the largest single process during the stage."
    )
    if view.nodes[-1] > 1:
        note += " MB returned: answers to the server from other nodes."
    if any(view.limited(nodes) for nodes in view.nodes[1:]):
        note += (
            " Link alone: what the bytes that came to one node, to which most came (moved, and answers to the server's), take"
            " at the link's rate."
        )
    return "\n\n".join([*tables, note])


def maps(view: OneMatrix) -> str:
    """Maps alone beside maps and autoencoder, by K."""

    def cell(defense: str, stage: str, size: Size) -> str:
        pair = view.maps_seconds(defense, size)
        if pair is None:
            return ""
        alone, both = (part.median for part in pair)
        return f"{significant(alone)} / {significant(both)} ({both / alone:.2f} x)"

    lines = [line for line in view.lines() if line[0] in view.with_autoencoder()]
    return by_clients(view, "Maps alone / maps and autoencoder (s)", cell, lines=lines)


def strong(view: OneMatrix) -> str:
    """Speed-up over the fewest nodes."""

    def cell(method: str, stage: str, size: Size) -> str:
        if (found := strong_scaling(view.sizes(method, stage)).get(size)) is None:
            return ""
        base, speed_up = found
        over = f" (over {base} nodes)" if base > 1 else ""
        return f"{_ratio(speed_up)}, {100 * speed_up.value * base / size.nodes:.0f} %{over}"

    return by_clients(view, "Strong scaling: speed-up over one node [quartiles], efficiency", cell)


def weak(view: OneMatrix) -> str:
    """Efficiency where clients grow with nodes."""

    def cell(method: str, stage: str, size: Size) -> str:
        found = weak_scaling(view.sizes(method, stage)).get(size)
        return "" if found is None else _ratio(found)

    table = by_clients(view, "Weak scaling: T(K / n clients, 1 node) / T(K clients, n nodes)", cell)
    bound = "Work that grows as K^p can reach n^(1 - p) at most: 1 for p = 1, 1/n for p = 2."
    return f"{table}\n\n{bound}" if table else ""


def moved(view: OneMatrix) -> str:
    """Bytes between nodes, a round."""

    def cell(method: str, stage: str, size: Size) -> str:
        return _moved(view.stages(method, size.clients, size.nodes)) if size.nodes > 1 else ""

    lines = [line for line in view.lines() if line[0] != LIMITS]
    return by_clients(view, "MB moved between nodes a round (share of the matrix)", cell, lines=lines)


def spilled(view: OneMatrix) -> str:
    """Where the object store did not suffice, and what a row costs there beside the smallest K."""
    rows = []
    for (method, stage, size), m in view.found.items():
        if m.spilled_bytes > 0 and (stage == WHOLE or method == LIMITS):
            made = f"while the matrix and the limits were made ({stage})"
            where = made if method == LIMITS else f"in {defense_title(method)}"
            rows.append(
                f"- K = {size.clients}, {count(size.nodes, 'node')}, {where}: the object store spilled"
                f" {m.spilled_bytes / GIB:.2f} GiB; times on this matrix include the disk."
            )
    return "\n\n".join(["#### Spilled to disk", "\n".join(rows), per_row(view)]).rstrip() if rows else ""


def per_row(view: OneMatrix) -> str:
    """Milliseconds a row by K, and times those at the smallest K; "" for one K."""

    def cell(method: str, stage: str, size: Size) -> str:
        few = view.found.get((method, stage, size._replace(clients=view.clients[0])))
        if (m := view.found.get((method, stage, size))) is None:
            return ""
        each = 1e3 * m.wall_s.median / size.clients
        if few is None or few.size == size or not few.wall_s.median:
            return significant(each)
        return f"{significant(each)} ({each * few.size.clients / (1e3 * few.wall_s.median):.2f})"

    title = f"Milliseconds a row (times those at K = {view.clients[0]})"
    lines = [line for line in view.lines() if line[:2] != (LIMITS, PRODUCTS)]  # which are as many for any K
    return by_clients(view, title, cell, lines=lines) if len(view.clients) > 1 else ""


def memory(view: OneMatrix) -> str:
    """Peak memory of each node, by K: the largest over the repeats."""
    held: dict[tuple[str, str, Size], list[Row]] = {}
    for row in view.memory:
        size = view.size(row["clients"], row["nodes"])
        held.setdefault((row["defense"], str(row["node"]), size), []).append(row)

    def cell(method: str, node: str, size: Size) -> str:
        names = ("worker_bytes", "largest_worker_bytes", "store_bytes")
        rows = held.get((method, node, size), [])
        return " / ".join(f"{max(row[name] for row in rows) / GIB:.2f}" for name in names) if rows else ""

    places = sorted({(node, method) for method, node, _ in held})
    lines = [
        (method, node, f"{defense_title(method)}, node {node}")
        for method in view.defenses
        for node, of in places
        if of == method
    ]
    title = "Peak memory of each node: all workers / largest worker / object store (GiB)"
    table = by_clients(view, title, cell, lines=lines)
    note = (
        "Workers: peak of their resident memory without what they share, in a round of its own after the timed one;"
        " object store: in use after the round."
    )
    return f"{table}\n\n{note}" if table else ""


def growth_in_parameters(seen: Sequence[OneMatrix]) -> str:
    """Exponents in d at the largest K; "" where no stage was measured at three."""
    found = laws([entry for view in seen for entry in view.found.values()], "parameters")
    top: dict[tuple[str, str, int], int] = {}
    for method, stage, size in found:
        top[method, stage, size.nodes] = max(size.clients, top.get((method, stage, size.nodes), 0))
    rows = [
        [defense_title(method), stage, str(size.clients), str(size.nodes), *_law(law)]
        for (method, stage, size), law in found.items()
        if size.clients == top[method, stage, size.nodes] and (method != LIMITS or stage in LIMIT_LABELS)
    ]
    if not rows:
        return ""
    head = ["defense", "stage", "K", "nodes", "growth in d", *LAW[1:]]
    return f"### Growth in d, at the largest K\n\n{markdown.table(head, rows)}"


def count(number: int, word: str) -> str:
    """A number of things: `2 nodes`."""
    return f"{number} {word}{'s' * (number != 1)}"


def _spread(entry: Measured | None) -> str:
    if entry is None:
        return ""
    low, high = entry.wall_s.quartiles
    return f"{significant(entry.wall_s.median)} [{significant(low)}, {significant(high)}]"


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _law(law: PowerLaw | None) -> list[str]:
    if law is None:
        return ["-"] * len(LAW)
    mark = " †" if law.largest_deviation > OFF_LINE else ""
    exponent = f"{_signed(law.exponent)} [{_signed(law.low)}, {_signed(law.high)}]{mark}"
    return [exponent, _signed(law.last_exponent), f"{100 * law.largest_deviation:.0f} %"]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00")


def _disk(entries: Sequence[Measured]) -> list[str]:
    """Megabytes that went to disk during these stages, and that they read which had been written there."""
    went, came = (
        sum(values.median for values in of_stages)
        for of_stages in ([e.to_disk_bytes for e in entries], [e.from_disk_bytes for e in entries])
    )
    return [f"{went / 1e6:,.1f}", f"{came / 1e6:,.1f}"]


def _returned(entries: Sequence[Measured]) -> str:
    """Megabytes of answers that these stages brought to the server's node."""
    return f"{sum(entry.returned_bytes.median for entry in entries) / 1e6:,.1f}"


def _link(entries: Sequence[Measured]) -> str:
    """Seconds that these stages' bytes take on the busiest link, alone."""
    return significant(sum(entry.link_s.median for entry in entries))


def _moved(entries: Sequence[Measured]) -> str:
    """Megabytes moved by these stages of one method, and their share of the matrix."""
    if not entries:
        return ""
    total = sum(entry.moved_bytes.median for entry in entries)
    return f"{total / 1e6:,.1f} ({100 * total / entries[0].size.matrix_bytes:.1f} %)"
