"""What grows with a size, as most studies show it: a table by size, a table of exponents; `figure.labelled_curves` draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from raysim.studies import markdown
from raysim.studies.fit import power_law
from raysim.studies.table import Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa

Curves = Mapping[str, Mapping[int, Values]]
"""Name of a curve -> size -> what repeats gave."""


def curves_of(
    table: pa.Table, value: str, size: str, by: str, name: Callable[[object], str] = str
) -> dict[str, dict[int, Values]]:
    """A column as a curve for each value of `by`, sizes ascending; what was not run is left out."""
    found: dict[str, dict[int, Values]] = {}
    for (at, which), values in sorted(gathered(table, value, size, by).items(), key=lambda item: item[0][0]):
        if values.known.size:
            found.setdefault(name(which), {})[at] = values
    order = dict.fromkeys(map(name, table[by].to_pylist()))
    return {which: found[which] for which in order if which in found}


def by_size(x: str, *shown: Mapping[str, Mapping[int, object]]) -> str:
    """A table with a row a size and a column a curve: `median (first to third quartile)` of Values, other things as they are."""
    columns = {name: points for curves in shown for name, points in curves.items()}
    sizes = sorted({size for points in columns.values() for size in points})
    rows = [[f"{size:,}", *(str(points.get(size, "")) for points in columns.values())] for size in sizes]
    return markdown.table([x, *columns], rows)


def growth(what: str, x: str, curves: Curves) -> str:
    """A table of the exponents of growth, with their 95 % confidence intervals and the slopes between the two largest sizes."""
    rows = []
    for name, points in curves.items():
        law = power_law(list(points), [values.all for values in points.values()])
        text = (
            "needs 3 sizes"
            if law is None
            else f"{law.exponent:.2f} ({law.low:.2f} to {law.high:.2f}), last {law.last_exponent:.2f}"
        )
        rows.append([name, text])
    return markdown.table([what, f"grows with {x} to the power of (95 % interval), last two sizes"], rows)
