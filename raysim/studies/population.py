"""`raysim bench population`: what a large population costs when only a cohort of it takes part."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from raysim.errors import unknown_name
from raysim.formats import seconds, size
from raysim.options import AtLeastTwo, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Numbers, Written, listed
from raysim.studies.population_data import KINDS, let_go_of, shared, written
from raysim.studies.study import Bench, Cell, Page, Plan, Study, columns
from raysim.studies.table import Groups, Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from raysim.runs.execution import Progress

DIGITS = "digits"
STORES = ("shared", "shards")
"""All clients draw from one small training set in memory; or have samples of their own, on disk."""


class PopulationPlan(Plan):
    """How many clients there are, how many take part, and what they hold."""

    grid: ClassVar = frozenset({"clients", "data"})
    clients: Numbers = Field((1_000_000,), description="clients in all, with commas between")
    data: Annotated[tuple[str, ...], BeforeValidator(listed), Written("WORDS")] = Field(
        (DIGITS,),
        description="digits: ten of scikit-learn's, shared; images, tokens: shared, and then each client's own, on disk",
    )
    samples: PositiveInt = Field(25, description="of each client, of images and tokens; 784 bytes each")
    cohort: PositiveInt = Field(100, description="clients in a round")
    rounds: AtLeastTwo = Field(3, description="rounds of each run")
    backend: Literal["ray", "inprocess"] = Field("ray", description="where the run runs")
    folder: str | None = Field(
        None, description="where shards are written, and kept; default: a temporary folder"
    )

    @field_validator("data")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in (DIGITS, *KINDS):
                raise unknown_name("data", name, (DIGITS, *KINDS))
        return value


@dataclass(frozen=True)
class PopulationCell(Cell):
    """One run."""

    clients: int
    data: str
    store: str


class Population(Study[PopulationPlan, PopulationCell]):
    """Run a large population of which a cohort takes part; the memory of all processes together, and seconds.

    \b
    raysim bench population --cohort 1000 --rounds 3
    raysim bench population --clients 1000,100000,1000000 --out population
    raysim bench population --data images,tokens --cohort 1000 --rounds 6      writes 2 x 20 GB, one after the other

    With images and tokens every client has samples of its own, in shards on disk. The system's cache of them is dropped
    before the run, so that they are read from the disk. The same run on a small training set in memory, of which all
    clients draw, comes first.
    """

    name = "population"
    title = "A large population of which a cohort takes part"
    plan = PopulationPlan
    tables: ClassVar = {
        "population": TableSchema(
            "population",
            columns(
                clients=("int64", "in all"),
                data=("string", "what they hold"),
                store=("string", "shared: of one training set in memory; shards: their own, on disk"),
                round=("int32", "from 0"),
                wall_s=("float64", "seconds; of round 0 from the request on, start-up included"),
                start_s=("float64", "seconds from the request to the first client that trains"),
                peak_bytes=("int64", "proportional set size of all processes together, the run's peak"),
                disk_bytes=("int64", "of the shards"),
            ),
        )
    }

    def cells(self, plan: PopulationPlan) -> list[PopulationCell]:
        """See Study."""
        return [
            PopulationCell(clients, data, store)
            for data in plan.data
            for clients in plan.clients
            for store in (STORES[:1] if data == DIGITS else STORES)
        ]

    def measure(self, plan: PopulationPlan, cell: PopulationCell, bench: Bench) -> Mapping[str, Rows]:
        """Run it once and watch."""
        import raysim
        from raysim.studies.memory import TotalMemory

        config = population_config(cell.clients, plan.cohort, plan.rounds)
        given: dict[str, Any] = {}
        started: list[float] = []
        with tempfile.TemporaryDirectory() as temporary:
            disk_bytes = 0
            if cell.data != DIGITS:
                kind = KINDS[cell.data]
                config |= {**kind.groups, "server_data": {"source": "test"}}  # all clients keep theirs
                given["model"] = kind.model
                own = {"name": "iid", "samples_per_client": plan.samples}
                if cell.store == "shards":
                    name = f"{cell.data}-{cell.clients}x{plan.samples}"
                    folder = Path(plan.folder or temporary) / name
                    written(cell.data, cell.clients, plan.samples, folder)
                    disk_bytes = let_go_of(folder)
                    config["data"] = {"name": "shards", "root": str(folder), "partition": "natural"}
                else:
                    config["data"] = {"partition": own}
                    given["data"] = shared(cell.data)
            ends = [time.time()]

            def observe(event: Progress) -> None:
                if event.stage == "train" and not started:
                    started.append(event.at_s)
                if event.row:
                    ends.append(event.at_s)

            with TotalMemory() as watch:
                raysim.run(config, name="run", out=temporary, backend=plan.backend, observe=observe, **given)
        spent = [after - before for before, after in pairwise(ends)]
        of_run = {"start_s": started[0] - ends[0], "peak_bytes": watch.peak_bytes, "disk_bytes": disk_bytes}
        return {"population": [{"round": n, "wall_s": s, **of_run} for n, s in enumerate(spent)]}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Start and memory."""
        first = rows["population"][0]
        return f"starts in {seconds(first['start_s'])}, {size(first['peak_bytes'])}"

    def page(self, plan: PopulationPlan, tables: Mapping[str, pa.Table]) -> Page:
        """One row a run."""
        table, by = tables["population"], ("data", "clients", "store")
        memory, start, disk = (gathered(table, name, *by) for name in ("peak_bytes", "start_s", "disk_bytes"))
        later = later_rounds(table)
        rows = []
        for data, clients, store in memory:
            run = data, clients, store
            beside = later.get((data, clients, STORES[0]))
            ratio = later[run].median / beside.median if store == STORES[1] and beside else float("nan")
            cells = [store if store == STORES[0] else f"{size(disk[run].median)} on disk"]
            cells += [f"{memory[run].median / 2**30:.2f}", f"{start[run].median:.1f}", str(later[run])]
            rows.append([f"{clients:,}", data, *cells, "" if ratio != ratio else f"{ratio:.2f}"])
        head = [
            "clients",
            "data",
            "samples",
            "peak memory (GiB)",
            "start (s)",
            "later rounds (s)",
            "by shared",
        ]
        note = (
            f"Cohort {plan.cohort:,}, backend {plan.backend}. Memory: proportional set size of all processes together,"
            " shared pages counted once. Start: from the request to the first client that trains. Rounds after the first:"
            " median (quartiles)."
        )
        return Page([markdown.table(head, rows), note], {"population": (self.title, _figure(memory, later))})


def later_rounds(table: pa.Table) -> Groups:
    """(data, clients, store) -> seconds of the rounds after the first."""
    import pyarrow.compute as pc

    return gathered(table.filter(pc.field("round") > 0), "wall_s", "data", "clients", "store")


def _figure(memory: Groups, later: Groups) -> Figure:
    """Memory and seconds against the number of clients."""
    from raysim.studies.figure import curve, finish, panels

    figure, (left, right) = panels(2)
    sizes = sorted({clients for _, clients, _ in memory})
    for place, (data, store) in enumerate(dict.fromkeys((data, store) for data, _, store in memory)):
        at = [clients for clients in sizes if (data, clients, store) in memory]
        runs = [(data, clients, store) for clients in at]
        curve(left, at, [Values(memory[run].all / 2**30) for run in runs], place, f"{data}, {store}")
        curve(right, at, [later[run] for run in runs], place, f"{data}, {store}")
    finish(left, title="Peak memory", x="clients in all", ticks=sizes, log="x")
    finish(right, title="Seconds of a round after the first", x="clients in all", ticks=sizes, log="x")
    left.set_ylabel("GiB")
    right.set_ylabel("seconds")
    return figure


def population_config(clients: int, cohort: int, rounds: int) -> dict[str, Any]:
    """Digits, ten samples a client, a tenth of the clients malicious (noise), Multi-Krum, evaluated each round."""
    return {
        "rounds": rounds,
        "population": {"clients": clients, "cohort": cohort, "malicious": 0.1},
        "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 10}},
        "training": {"batch_size": 10},
        "attack": {"name": "noise"},
        "defense": {"name": "multi_krum", "num_byzantine": cohort // 5},
    }
