"""Rounds until every pair of clients has a similarity: simulated, beside the exact recursion and the printed bound.

FedGrad (Nguyen et al., 2023), section 6.2 and figure 10. Each round a cohort of K is drawn from n clients without
replacement, and its members get similarities with each other. Three events, each later than the one before:

    linked      every client has been in a cohort. What `coverage_rounds` gives the expectation of: it counts a new
                client as linked, whether or not somebody in its cohort was linked before
    estimable   every pair has met, or has a third client that both have met: what an estimate through one third
                client (defenses/cosine.py) needs
    met         every pair has met
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from raysim import rng
from raysim.errors import ConfigError
from raysim.options import AtLeastTwo, Count
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.markdown import table as markdown_table
from raysim.studies.options import Sizes, Written, listed
from raysim.studies.study import Bench, Cell, Page, Plan, Study, columns
from raysim.studies.table import Row, Values

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

EVENTS = ("linked", "estimable", "met")

EXACT, PRINTED = "all linked, exact", "theorem 1 as printed"
"""Curves of the figure that are not simulated."""

DRAWN_AT_ONCE = 64
"""Rounds whose cohorts are drawn together."""


class CoveragePlan(Plan):
    """Populations n, and cohorts K of each."""

    grid: ClassVar = frozenset({"population", "cohort"})
    population: Sizes = Field((100,), description="n, with commas between")
    cohort: Annotated[tuple[str, ...], BeforeValidator(listed), Written("SIZES")] = Field(
        ("5", "10", "20", "30", "40", "50"),
        description="clients a round, or shares such as 20%, with commas between",
    )
    trials: AtLeastTwo = Field(200, description="simulations of each")
    seed: Count = Field(0, description="what everything is drawn from")

    @model_validator(mode="after")
    def _different_cohorts(self) -> Self:
        cells = coverage_cells(self)
        if len(set(cells)) < len(cells):
            raise ConfigError("cohort", "must name different cohorts", ",".join(self.cohort))
        return self


@dataclass(frozen=True)
class CoverageCell(Cell):
    """A cohort of K of n clients."""

    population: int
    cohort: int


def coverage_cells(plan: CoveragePlan) -> list[CoverageCell]:
    """Population by population."""
    return [CoverageCell(n, cohort_size(word, n)) for n in plan.population for word in plan.cohort]


def cohort_size(word: str, population: int) -> int:
    """Clients in a cohort, from a number or a share of the population.

    >>> cohort_size("20%", 350), cohort_size("5", 100)
    (70, 5)
    """
    share = word.removesuffix("%")
    if not share.isdecimal():
        raise ConfigError("cohort", "must be numbers or shares such as 20%, with commas between", word)
    size = round(int(share) / 100 * population) if word.endswith("%") else int(share)
    if not 2 <= size <= population:
        rule = f"must be from 2 to the population of {population}"
        raise ConfigError("cohort", rule, word, min(max(size, 2), population))
    return size


def simulate(population: int, cohort: int, trials: int, seed: int) -> np.ndarray:
    """Rounds until the three EVENTS: [trials, 3] int64. Trial t depends on (seed, n, K, t) alone."""
    key = ("bench", "coverage", population, cohort)
    draws = [rng.generator(seed, *key, trial) for trial in range(trials)]
    return np.array([one_trial(population, cohort, draw) for draw in draws])


def one_trial(population: int, cohort: int, generator: np.random.Generator) -> tuple[int, int, int]:
    """(linked, estimable, met): the number of the round, from 1, in which each came about.

    Instead of looking at all pairs in every round, one pair is watched that has not met (or has no third one); when
    it has, the next such pair is looked for.
    """
    met = np.zeros((population, population), bool)
    linked = estimable = 0
    watched_third: tuple[int, int] | None = None
    watched = (0, 1)
    number = 0
    while True:
        keys = generator.random((DRAWN_AT_ONCE, population))
        for members in np.argpartition(keys, cohort - 1, axis=1)[:, :cohort]:
            number += 1
            met[members[:, None], members] = True
            if not linked and met.diagonal().all():
                linked = number
            if linked and not estimable:
                if watched_third is None or (met[watched_third[0]] & met[watched_third[1]]).any():
                    watched_third = first_false(_linked_through_one(met))
                if watched_third is None:
                    estimable = number
            if met[watched]:
                found = first_false(met)
                if found is None:
                    return linked, estimable, number
                watched = found


def first_false(matrix: np.ndarray) -> tuple[int, int] | None:
    """Where a bool matrix is first False; None if it is True throughout."""
    place = int(np.argmin(matrix))
    row, column = divmod(place, matrix.shape[1])
    return None if matrix[row, column] else (row, column)


def _linked_through_one(met: np.ndarray) -> np.ndarray:
    """Which pairs share somebody both have met, [n, n] bool; with True diagonals, also those that met."""
    links = met.astype(np.float32)
    return np.asarray(links @ links.T > 0)


class Coverage(Study[CoveragePlan, CoverageCell]):
    """Rounds until all pairs of clients have a similarity: simulated, by the exact recursion, and as FedGrad prints it.

    \b
    raysim bench coverage --out coverage
    raysim bench coverage --population 50,100,150,200,250,300,350 --cohort 10%,20%,40%,60% --out figure-10
    """

    name = "coverage"
    title = "Rounds until all pairs of clients have a similarity"
    plan = CoveragePlan
    tables: ClassVar = {
        "coverage": TableSchema(
            "coverage",
            columns(
                population=("int32", "n, clients in all"),
                cohort=("int32", "K, clients drawn each round"),
                trials=("int32", "simulations"),
                linked_rounds_mean=("float64", "rounds until every client was drawn, mean over trials"),
                linked_rounds_half_ci=("float64", "half of its 95 % confidence interval"),
                estimable_rounds_mean=("float64", "until every pair met or shares a third that both met"),
                estimable_rounds_half_ci=("float64", "half of its 95 % confidence interval"),
                met_rounds_mean=("float64", "until every pair met"),
                met_rounds_half_ci=("float64", "half of its 95 % confidence interval"),
                exact_rounds=("float64", "expectation of linked_rounds by the recursion"),
                theorem_1_rounds=("float64", "FedGrad's theorem 1 as printed"),
            ),
        )
    }

    def cells(self, plan: CoveragePlan) -> list[CoverageCell]:
        """See Study."""
        return coverage_cells(plan)

    def measure(self, plan: CoveragePlan, cell: CoverageCell, bench: Bench) -> Mapping[str, Rows]:
        """Simulate one (n, K) and set the result beside the recursion and the printed bound."""
        from defenses.cosine import coverage_rounds, theorem_1_rounds

        row: Row = {"trials": plan.trials}
        for event, found in zip(
            EVENTS, simulate(cell.population, cell.cohort, plan.trials, plan.seed).T, strict=True
        ):
            values = Values.of(found)
            row[f"{event}_rounds_mean"], row[f"{event}_rounds_half_ci"] = values.mean, values.half_interval
        row["exact_rounds"] = coverage_rounds(cell.population, cell.cohort)
        row["theorem_1_rounds"] = theorem_1_rounds(cell.population, cell.cohort)
        return {"coverage": [row]}

    def page(self, plan: CoveragePlan, tables: Mapping[str, pa.Table]) -> Page:
        """See Study."""
        rows = tables["coverage"].to_pylist()
        return Page([_table(rows), _notes(rows)], {"rounds": (self.title, _figure(plan, rows))})


def _table(rows: Sequence[Row]) -> str:
    head = ["n, K", "exact recursion", "all linked, simulated", "theorem 1 as printed", "printed / exact"]
    head += ["every pair met or shares a third, simulated", "every pair met, simulated"]
    cells = []
    for row in rows:
        exact, printed = row["exact_rounds"], row["theorem_1_rounds"]
        linked, estimable, met = (
            f"{row[f'{event}_rounds_mean']:.2f} ± {row[f'{event}_rounds_half_ci']:.2f}" for event in EVENTS
        )
        label = f"{row['population']}, {row['cohort']}"
        values = (f"{exact:.2f}", linked, f"{printed:.2f}", f"{printed / exact:.2f}", estimable, met)
        cells.append([label, *values])
    return markdown_table(head, cells)


def _notes(rows: Sequence[Row]) -> str:
    below = [row for row in rows if row["theorem_1_rounds"] < row["exact_rounds"] - 1e-9]
    outside = [
        row
        for row in rows
        if abs(row["linked_rounds_mean"] - row["exact_rounds"]) > row["linked_rounds_half_ci"] + 1e-9
    ]
    lines = [
        f"Mean over {rows[0]['trials']} trials ± half of its 95 % confidence interval. A cohort of K is drawn from n"
        " clients each round. All linked: every client has been drawn, the event whose expectation the recursion"
        " computes. An estimate needs more: that a pair has met or shares a third client that both have met.",
        "",
        f"The exact expectation lies outside the interval of the simulated mean in {len(outside)} of {len(rows)}"
        f" rows (expected: about {0.05 * len(rows):.1f}).",
        "",
    ]
    if below:
        worst = min(below, key=lambda row: row["theorem_1_rounds"] / row["exact_rounds"])
        lines.append(
            f"Theorem 1 is printed as an upper bound and lies below the exact expectation in {len(below)} of"
            f" {len(rows)} rows, because it counts only the rounds that bring nobody new; most at n = "
            f"{worst['population']}, K = {worst['cohort']}: {worst['theorem_1_rounds']:.1f} for"
            f" {worst['exact_rounds']:.1f}."
        )
    else:
        lines.append("Theorem 1, printed as an upper bound, is nowhere below the exact expectation.")
    return "\n".join(lines)


def _figure(plan: CoveragePlan, rows: Sequence[Row]) -> Figure:
    """One population: rounds against K. Several: a panel for each cohort, rounds against n."""
    from raysim.studies.figure import labelled_curves

    by_cell = {(row["population"], row["cohort"]): row for row in rows}
    panels: dict[str, dict[str, dict[int, Values]]] = {}
    several = len(plan.population) > 1
    for n in plan.population:
        for word in plan.cohort:
            row = by_cell.get((n, cohort_size(word, n)))
            if row is not None:
                title = f"K = {word}{' of n' * ('%' in word)}" if several else f"n = {n}"
                at = row["population" if several else "cohort"]
                for name, values in _curves(row).items():
                    panels.setdefault(title, {}).setdefault(name, {})[at] = values
    x = "clients in all, n" if several else "clients in a round, K"
    exact = [EXACT, PRINTED]
    return labelled_curves(panels, x=x, y="rounds; band: 95 % interval", log="y", quiet=exact, alike=True)


def _curves(row: Row) -> dict[str, Values]:
    """Name -> rounds, of the recursion, the printed bound, and the three events."""
    found = {EXACT: Values.of([row["exact_rounds"]]), PRINTED: Values.of([row["theorem_1_rounds"]])}
    names = ("all linked", "met or shares a third", "met")
    for event, name in zip(EVENTS, names, strict=True):
        mean, half = row[f"{event}_rounds_mean"], row[f"{event}_rounds_half_ci"]
        found[name] = Values.within(mean - half, mean, mean + half)
    return found
