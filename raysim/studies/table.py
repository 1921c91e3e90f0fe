"""Rows of a study, one a repeat or seed, gathered into values with their median, quartiles and interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysim.formats import rate, significant

if TYPE_CHECKING:
    import pyarrow as pa

CONFIDENCE = 0.95

Row = dict[str, Any]
"""A row as pyarrow gives it, column -> value."""


@dataclass(frozen=True)
class Values:
    """What repeats or seeds gave [R], in their order; NaN is left out of everything below."""

    all: NDArray[np.float64]

    @classmethod
    def of(cls, values: Iterable[float]) -> Values:
        """From any numbers."""
        return cls(np.array(list(values), np.float64))

    @classmethod
    def within(cls, low: float, middle: float, high: float) -> Values:
        """Values with this median and these quartiles, if nothing else is known of them."""
        return cls.of([low, low, middle, high, high])

    @property
    def known(self) -> NDArray[np.float64]:
        """Those that are numbers."""
        return self.all[~np.isnan(self.all)]

    @property
    def median(self) -> float:
        """The median; NaN without a value."""
        return float(np.median(self.known)) if self.known.size else float("nan")

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile (numpy's linear interpolation)."""
        if not self.known.size:
            return float("nan"), float("nan")
        low, high = np.quantile(self.known, (0.25, 0.75))
        return float(low), float(high)

    @property
    def mean(self) -> float:
        """The mean; NaN without a value."""
        return float(self.known.mean()) if self.known.size else float("nan")

    @property
    def deviation(self) -> float:
        """The sample standard deviation; NaN below two values."""
        return float(self.known.std(ddof=1)) if self.known.size > 1 else float("nan")

    @property
    def half_interval(self) -> float:
        """Half the width of the mean's 95 % confidence interval (Student's t); NaN below two values."""
        from scipy import stats

        count = self.known.size
        if count < 2:
            return float("nan")
        return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * self.deviation / np.sqrt(count))

    def mean_text(self, form: Callable[[float], str] = rate, *, interval: bool = True) -> str:
        """The mean and, of several values, half of its interval.

        >>> Values.of([1, 2, 3]).mean_text(), Values.of([0.5]).mean_text()
        ('2.000 ± 2.484', '0.500')
        """
        spread = f" ± {form(self.half_interval)}" if interval and self.known.size > 1 else ""
        return f"{form(self.mean)}{spread}"

    def __str__(self) -> str:
        low, high = self.quartiles
        spread = f" ({significant(low)} to {significant(high)})" if low < high else ""
        return f"{significant(self.median)}{spread}"


Groups = dict[Any, Values]
"""Values by what columns say of a group: a value of pyarrow's, or a tuple of several."""


def gathered(table: pa.Table, value: str, *by: str) -> Groups:
    """The values of a column by the columns that name a group, groups in the order of their first row.

    Keys are tuples, or single values if there is only one column.
    """
    groups = table.select([*by, value]).group_by(list(by), use_threads=False).aggregate([(value, "list")])
    lists = groups.column(f"{value}_list").to_pylist()
    keys = list(zip(*(groups.column(name).to_pylist() for name in by), strict=True))
    return {
        key if len(by) > 1 else key[0]: Values.of(float("nan") if v is None else v for v in found)
        for key, found in zip(keys, lists, strict=True)
    }


def ordered(table: pa.Table, column: str) -> list[Any]:
    """The different values of a column, in the order of their first row."""
    return list(dict.fromkeys(table.column(column).to_pylist()))
