"""The figures of a view. They show what LayerCAM-AE's Fig. 15 (seconds per round by defense) and 16 (maps alone and with the
autoencoder, against the number of users) and FedGrad's Fig. 9 (server time by defense, and its split in section 6.1)
show, measured here, and what more nodes bring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raysim.composition.registry import defense_title
from raysim.formats import significant
from raysim.studies.figure import bars, labelled_curves, stacked
from raysim.studies.scaling.read import OneMatrix, shares, strong_scaling
from raysim.studies.scaling.tables import LIMITS
from raysim.studies.table import Values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "runtime": "Seconds per round at the largest K",
    "growth": "Seconds per round against K",
    "split": "Share of each stage at the largest K",
    "maps": "Maps alone, and with the autoencoder, against K",
    "nodes": "Speed-up against nodes",
    "moved": "Megabytes moved between nodes in a round, at the largest K",
}
"""Kind of figure -> what it shows."""

QUARTILES = "seconds per round, median; band: quartiles"


def draw(view: OneMatrix, figures: dict[str, tuple[str, Figure]]) -> dict[str, str]:
    """Add every figure there are data for to those of the page; kind -> its name there."""
    kinds: dict[str, Callable[[OneMatrix], Figure | None]] = {
        "runtime": runtime,
        "growth": growth,
        "split": split,
        "maps": maps,
        "nodes": speed_up,
        "moved": moved,
    }
    drawn = {}
    for kind, draw_kind in kinds.items():
        if (figure := draw_kind(view)) is not None:
            drawn[kind] = f"{kind}{view.slug}"
            figures[drawn[kind]] = (CAPTIONS[kind], figure)
    return drawn


def runtime(view: OneMatrix) -> Figure:
    """Seconds of each method at its largest K, slowest first, on the fewest and the most nodes."""
    found = {
        (defense, nodes): whole for nodes in _ends(view) for defense, whole in view.largest(nodes).items()
    }
    slowest = {d: max(w.wall_s.median for (of, _), w in found.items() if of == d) for d in view.defenses}
    ordered = sorted(found, key=lambda at: (-slowest[at[0]], at[1]))
    values = {_name(view, view.label(found[at]), at[1]): found[at].wall_s for at in ordered}
    return bars(values, "seconds per round; line: first to third quartile")


def growth(view: OneMatrix) -> Figure | None:
    """Seconds against K, on the fewest and the most nodes."""
    if len(view.clients) < 2:
        return None
    panels = {
        f"{_nodes(nodes)}, d = {view.parameters:,}": {
            label: {s.clients: m.wall_s for s, m in view.sizes(method, stage).items() if s.nodes == nodes}
            for method, stage, label in view.lines()
        }
        for nodes in _ends(view)
    }
    return labelled_curves(panels, x="clients K", y=QUARTILES, quiet=_limits(view), alike=True)


def split(view: OneMatrix) -> Figure:
    """What part of each method's seconds each of its stages takes."""
    found = {}
    for defense in view.defenses:
        for nodes in _ends(view):
            if (whole := view.largest(nodes).get(defense)) is not None:
                parts = view.stages(defense, whole.size.clients, nodes)
                name = f"{_name(view, view.label(whole), nodes)}, {significant(whole.wall_s.median)} s"
                found[name] = {m.stage: share for m, share in zip(parts, shares(parts), strict=True)}
    return stacked({"": found}, "share of the seconds of a round, stages in the order they run")


def maps(view: OneMatrix) -> Figure | None:
    """Heat maps alone and with the autoencoder against K, on the fewest nodes; a panel for each defense."""
    names = view.with_autoencoder()
    if not names or len(view.clients) < 2:
        return None
    panels = {}
    for defense in names:
        pairs = {K: view.maps_seconds(defense, view.size(K, view.nodes[0])) for K in view.clients}
        known = {K: pair for K, pair in pairs.items() if pair is not None}
        panels[f"{defense_title(defense)}, {_nodes(view.nodes[0])}"] = {
            "maps alone": {K: pair[0] for K, pair in known.items()},
            "and autoencoder": {K: pair[1] for K, pair in known.items()},
        }
    return labelled_curves(panels, x="clients K", y=QUARTILES, log="", alike=True)


def speed_up(view: OneMatrix) -> Figure | None:
    """Speed-up against the number of nodes at the largest K, beside the ideal."""
    curves = {}
    for method, stage, label in view.lines():
        found = strong_scaling(view.sizes(method, stage))
        found = {size: (base, ratio) for size, (base, ratio) in found.items() if base == view.nodes[0]}
        if found:
            top = max(size.clients for size in found)
            name = label if top == view.clients[-1] else f"{label} (K = {top})"
            points = {
                s.nodes: Values.within(ratio.low, ratio.value, ratio.high)
                for s, (_, ratio) in found.items()
                if s.clients == top
            }
            curves[name] = {view.nodes[0]: Values.of([1.0]), **points}
    if not curves:
        return None
    curves["ideal"] = {nodes: Values.of([nodes / view.nodes[0]]) for nodes in view.nodes}
    title = f"K = {view.clients[-1]} clients, d = {view.parameters:,}"
    y = f"speed-up over {_nodes(view.nodes[0])}; band: quartiles"
    return labelled_curves({title: curves}, x="nodes", y=y, log="", quiet=(*_limits(view), "ideal"))


def moved(view: OneMatrix) -> Figure | None:
    """Megabytes that stages brought from other nodes, on the most nodes; those that moved any."""
    values = {
        f"{view.label(whole)}: {entry.stage}": Values(entry.moved_bytes.all / 1e6)
        for whole in view.largest(view.nodes[-1]).values()
        for entry in view.stages(whole.defense, whole.size.clients, view.nodes[-1])
        if entry.moved_bytes.median > 0
    }
    return bars(values, "MB moved between nodes in a round") if values else None


def _name(view: OneMatrix, label: str, nodes: int) -> str:
    return f"{label}, {_nodes(nodes)}" if len(view.nodes) > 1 else label


def _nodes(count: int) -> str:
    return f"{count} node{'s' * (count != 1)}"


def _ends(view: OneMatrix) -> list[int]:
    """The fewest and the most nodes."""
    return sorted({view.nodes[0], view.nodes[-1]})


def _limits(view: OneMatrix) -> list[str]:
    return [label for method, _, label in view.lines() if method == LIMITS]
