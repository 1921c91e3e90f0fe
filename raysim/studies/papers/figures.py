"""The papers' figures, from what was measured: clients' scores, heat maps, representations, and PDRR's range of q."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from raysim.presets import Preset
from raysim.studies.figure import COLOURS, panels
from raysim.studies.table import Groups

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from raysim.report.finished_run import Columns

HONEST, ATTACKER = COLOURS[0], COLOURS[1]
SIDE_BY_SIDE = 3
"""Panels in a figure, at most: a table with more cells has several."""

T = TypeVar("T")
Figures = dict[str, tuple[str, "Figure"]]


def figures_of(tables: Mapping[str, Sequence[Preset]], measured: Groups, drawn: pa.Table) -> Figures:
    """Name -> (caption, figure), of the first seed that was drawn of each cell. measured: see `q_ranges`."""
    found: Figures = {}
    for name, presets in tables.items():
        ranged = [cell for cell in presets if any(key.startswith("q_to@") for key in cell.metrics)]
        for place, some in enumerate(_parts(ranged)):
            found[_name(name, place, ranged)] = (
                f"{name}: the values of q that flag exactly the attackers",
                q_ranges(some, measured),
            )
        for kind, caption in (
            ("scores", "scores of the clients"),
            ("representations", "representations on their first two principal components"),
        ):
            shown = [(cell, _clients(drawn, cell)) for cell in presets if cell.drawn == kind]
            shown = [(cell, rows) for cell, rows in shown if rows]
            for place, part in enumerate(_parts(shown)):
                figure = scores(part) if kind == "scores" else representations(part)
                found[_name(name, place, shown)] = (f"{name}: {caption}", figure)
        for cell in presets:
            rows = _clients(drawn, cell) if cell.drawn == "maps" else {}
            if rows:
                found[f"{name}-{cell.cell}"] = (f"{name}, {cell.cell}: heat maps", maps(rows))
    return found


def q_ranges(cells: Sequence[Preset], measured: Groups) -> Figure:
    """From q_from to q_to in each round, a line a seed; if nothing lies between them, both ends as crosses.

    measured: (preset, measure) -> values over seeds.
    """
    figure, drawn = _titled(cells, height=3.2)
    for axes, cell in zip(drawn, cells, strict=True):
        rounds = [key.partition("@")[2] for key in cell.metrics if key.startswith("q_to@")]
        for at, number in enumerate(rounds):
            ends = [measured.get((cell.name, f"{end}@{number}")) for end in ("q_from", "q_to")]
            if None in ends:
                continue
            pairs = list(zip(*(values.all for values in ends if values is not None), strict=True))
            for place, (low, high) in enumerate(pairs):
                x = at + 0.15 * (place - (len(pairs) - 1) / 2)
                if low < high:
                    axes.plot([x, x], [low, high], color=HONEST, lw=4, solid_capstyle="butt")
                else:
                    axes.plot([x, x], [low, high], color=ATTACKER, ls="", marker="x", ms=4)
        axes.set_xticks(range(len(rounds)), rounds)
        axes.set(xlabel="round of the full setting", ylim=(-0.1, 1.03))
    drawn[0].set_ylabel("q")
    return figure


def scores(cells: Sequence[tuple[Preset, Mapping[str, Columns]]]) -> Figure:
    """A bar a client."""
    figure, drawn = _titled([cell for cell, _ in cells], height=3.2)
    for axes, (_, series) in zip(drawn, cells, strict=True):
        rows = series["score"]
        colours = [ATTACKER if attacks else HONEST for attacks in rows["malicious"]]
        axes.bar(np.arange(len(colours)), rows["value"], color=colours)
        axes.set(xlabel="client (attackers orange)")
    drawn[0].set_ylabel("score")
    return figure


def representations(cells: Sequence[tuple[Preset, Mapping[str, Columns]]]) -> Figure:
    """A point a client and sample; each panel says how far the attackers' and the others' models are from all others."""
    figure, drawn = _titled([cell for cell, _ in cells], height=3.6)
    for axes, (_, series) in zip(drawn, cells, strict=True):
        for attacks, colour, mark, word in (
            (False, HONEST, "o", "honest"),
            (True, ATTACKER, "x", "attacker"),
        ):
            here, far = (series[name]["malicious"] == attacks for name in ("x", "mmd"))
            mean = series["mmd"]["value"][far].mean() if here.any() else np.nan
            axes.plot(
                series["x"]["value"][here], series["y"]["value"][here],
                color=colour, marker=mark, ls="", ms=3.5, label=f"{word}, mean MMD² {mean:.2g}",
            )  # fmt: skip
        axes.legend(frameon=False, fontsize=7, loc="best")
        _bare(axes)
    return figure


def maps(series: Mapping[str, Columns]) -> Figure:
    """The report's grid: each client's map and, beside it, what the autoencoder made of it."""
    from raysim.report.figures import heat_map_grid
    from raysim.report.finished_run import HeatMaps

    rows = series["map"]
    first = rows["place"] == 0
    clients: Columns = {
        "round": np.zeros(int(first.sum()), np.int64),
        **{name: rows[name][first] for name in ("client", "malicious", "flagged")},
    }
    count = len(clients["client"])
    side = round((len(rows["value"]) // count) ** 0.5)
    layers = {name: of["value"].astype(np.float32).reshape(count, side, side) for name, of in series.items()}
    figure, _ = heat_map_grid(HeatMaps(0, clients["client"], layers["map"], layers.get("rebuilt")), clients)
    return figure


def _titled(cells: Sequence[Preset], height: float) -> tuple[Figure, list[Axes]]:
    """A panel for each cell, with its name above."""
    figure, drawn = panels(len(cells), height=height)
    for axes, cell in zip(drawn, cells, strict=True):
        axes.set_title(cell.cell, loc="left", fontsize=9)
    return figure, drawn


def _clients(drawn: pa.Table, cell: Preset) -> dict[str, Columns]:
    """Series -> its columns, of the first seed of a cell; empty if nothing of it was drawn."""
    names = np.array(drawn["preset"].to_pylist(), dtype=object)
    here = names == cell.name
    if not here.any():
        return {}
    seeds = drawn["seed"].to_numpy()
    here &= seeds == seeds[here].min()
    series = np.array(drawn["series"].to_pylist(), dtype=object)
    columns = {
        name: np.array(drawn[name].to_pylist())
        for name in ("client", "malicious", "flagged", "place", "value")
    }
    return {
        str(name): {key: column[here & (series == name)] for key, column in columns.items()}
        for name in dict.fromkeys(series[here])
    }


def _parts(cells: Sequence[T]) -> list[Sequence[T]]:
    return [cells[start : start + SIDE_BY_SIDE] for start in range(0, len(cells), SIDE_BY_SIDE)]


def _name(table: str, place: int, cells: Sequence[object]) -> str:
    return table if len(cells) <= SIDE_BY_SIDE else f"{table}-{place + 1}"


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
