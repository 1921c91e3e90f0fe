"""`raysim bench population`: what a large population costs when only a cohort of it takes part."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raysim.config.schema import ExperimentConfig
from raysim.options import AtLeastTwo, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Numbers
from raysim.studies.study import Bench, Cell, Page, Plan, Study, columns
from raysim.studies.table import Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from raysim.runs.execution import Progress


class PopulationPlan(Plan):
    """How many clients there are, and how many take part."""

    grid: ClassVar = frozenset({"clients"})
    clients: Numbers = Field((1_000_000,), description="clients in all, with commas between")
    cohort: PositiveInt = Field(100, description="clients in a round")
    rounds: AtLeastTwo = Field(3, description="rounds of each run")
    backend: Literal["ray", "inprocess"] = Field("ray", description="where the run runs")


@dataclass(frozen=True)
class PopulationCell(Cell):
    """One run."""

    clients: int


class Population(Study[PopulationPlan, PopulationCell]):
    """Run a large population of which a cohort takes part; the memory of all processes together, and seconds.

    \b
    raysim bench population --cohort 1000 --rounds 3
    raysim bench population --clients 1000,100000,1000000 --out population
    """

    name = "population"
    title = "A large population of which a cohort takes part"
    plan = PopulationPlan
    tables: ClassVar = {
        "population": TableSchema(
            "population",
            columns(
                clients=("int64", "in all"),
                round=("int32", "from 0"),
                wall_s=("float64", "seconds; of round 0 from the request on, start-up included"),
                peak_bytes=("int64", "proportional set size of all processes together, the run's peak"),
            ),
        )
    }

    def cells(self, plan: PopulationPlan) -> list[PopulationCell]:
        """See Study."""
        return [PopulationCell(clients) for clients in plan.clients]

    def measure(self, plan: PopulationPlan, cell: PopulationCell, bench: Bench) -> Mapping[str, Rows]:
        """Run it once and watch."""
        import raysim
        from raysim.studies.memory import TotalMemory

        ends = [time.time()]

        def observe(event: Progress) -> None:
            if event.row:
                ends.append(event.at_s)

        config = population_config(cell.clients, plan.cohort, plan.rounds)
        with tempfile.TemporaryDirectory() as folder, TotalMemory() as watch:
            raysim.run(config, name="population", out=folder, backend=plan.backend, observe=observe)
        spent = [after - before for before, after in pairwise(ends)]
        peak = {"peak_bytes": watch.peak_bytes}
        return {"population": [{"round": n, "wall_s": s, **peak} for n, s in enumerate(spent)]}

    def page(self, plan: PopulationPlan, tables: Mapping[str, pa.Table]) -> Page:
        """One row a population."""
        table = tables["population"]
        memory, first = (
            gathered(table, "peak_bytes", "clients"),
            gathered(table, "wall_s", "clients", "round"),
        )
        rows = []
        for clients in sorted(memory):
            later = [first[clients, n].median for n in range(1, plan.rounds) if (clients, n) in first]
            cells = [f"{memory[clients].median / 2**30:.2f}", f"{first[clients, 0].median:.1f}"]
            rows.append([f"{clients:,}", *cells, ", ".join(f"{seconds:.2f}" for seconds in later)])
        head = ["clients", "peak memory (GiB)", "first round (s)", "later rounds (s)"]
        note = (
            f"Cohort {plan.cohort:,}, backend {plan.backend}. Memory: proportional set size of all processes together,"
            " shared pages counted once. First round: from the request on, start-up included."
        )
        return Page([markdown.table(head, rows), note], {"population": (self.title, _figure(memory, first))})


def _figure(memory: Mapping[int, Values], spent: Mapping[tuple[int, int], Values]) -> Figure:
    """Memory and seconds against the number of clients."""
    from raysim.studies.figure import curve, finish, panels

    sizes = sorted(memory)
    figure, (left, right) = panels(2)
    curve(left, sizes, [Values(memory[n].all / 2**30) for n in sizes], 0, "all processes")
    first = [spent[n, 0] for n in sizes]
    later = [Values.of(v for (of, at), s in spent.items() if of == n and at for v in s.all) for n in sizes]
    curve(right, sizes, first, 0, "first round")
    curve(right, sizes, later, 1, "later rounds")
    finish(left, title="Peak memory", x="clients in all", ticks=sizes, log="x")
    finish(right, title="Seconds of a round", x="clients in all", ticks=sizes, log="xy")
    left.set_ylabel("GiB")
    right.set_ylabel("seconds")
    return figure


def population_config(clients: int, cohort: int, rounds: int) -> ExperimentConfig:
    """Digits, ten samples a client, a tenth of the clients malicious (noise), Multi-Krum, evaluated each round."""
    return ExperimentConfig.from_mapping(
        {
            "rounds": rounds,
            "population": {"clients": clients, "cohort": cohort, "malicious": 0.1},
            "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 10}},
            "training": {"batch_size": 10},
            "attack": {"name": "noise"},
            "defense": {"name": "multi_krum", "num_byzantine": cohort // 5},
        }
    )
