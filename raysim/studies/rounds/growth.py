"""`raysim bench growth`: what a simulated round costs as clients, nodes and client actors grow.

A cell is one case with so many clients, on so many nodes, in so many actors, with such a share of a GPU each. Every
number of nodes gets a cluster of its own, every repeat of a cell has actors of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BeforeValidator, Field, field_validator

from raysim.errors import ConfigError, unknown_name
from raysim.options import Count, Fraction, PositiveInt
from raysim.runs.table_schema import Rows
from raysim.studies.options import AnyNumbers, Methods, Written, distinct, listed
from raysim.studies.rounds.cases import CASES, WARM_UP, bench_config
from raysim.studies.rounds.tables import TABLES
from raysim.studies.study import Bench, Cell, OnCluster, Page, Study, shuffled

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.config.schema import ExperimentConfig
    from raysim.studies.memory import RayWatch

KRUM = "krum"
"""The defense unless another is asked for."""

ACTOR_BYTES = 190 * 2**20
"""Memory of its own that one actor's process takes at least, torch included."""


def _per_actor(word: str) -> str:
    if word != "auto" and not (word.isdecimal() and int(word) > 0):
        raise ValueError
    return word


class GrowthPlan(OnCluster):
    """The grid and how it is measured."""

    grid: ClassVar = frozenset(
        {"case", "defense", "clients", "nodes", "clients_per_actor", "client_gpus", "repeats"}
    )
    case: Annotated[tuple[str, ...], BeforeValidator(listed), Written("CASE", argument=True, many=True)] = (
        Field(
            ("digits", "cifar10"),
            description="digits, cifar10, dirichlet, lognormal, leaf; default: the first two",
        )
    )
    defense: Methods = Field((KRUM,), description="with commas between; default: krum")
    clients: AnyNumbers = Field((), description="K, with commas between; default: the case's own")
    clients_per_actor: Annotated[
        tuple[str, ...],
        BeforeValidator(
            distinct(_per_actor, "must be auto or whole numbers of at least 1, with commas between")
        ),
        Written("auto|NUMBERS"),
    ] = Field(("auto",), description="clients that one actor hosts")
    client_gpus: Annotated[
        tuple[Fraction, ...],
        BeforeValidator(distinct(float, "must be numbers from 0 to 1 with commas between")),
        Written("SHARES"),
    ] = Field((0.0,), description="of a GPU, for each client")
    repeats: PositiveInt = Field(5, description="of every cell")
    rounds: PositiveInt = Field(3, description="rounds that each repeat times")
    seed: Count = Field(0, description="of the runs, and of the order of cells")
    root: str | None = Field(None, description="folder of the data sets; default: $RAYSIM_DATA")

    @field_validator("case")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CASES:
                raise unknown_name("case", name, CASES)
        return value

    @field_validator("backend")
    @classmethod
    def _on_ray(cls, value: str) -> str:
        if value != "ray":
            raise ConfigError("backend", "must be ray: client actors are what grows", value, "ray")
        return value

    def grid_of(self, nodes: int, repeat: int = 0) -> list[GrowthCell]:
        """The cells of one number of nodes, in one repeat."""
        return [
            GrowthCell(nodes, repeat, case, clients, per_actor, gpus, rule)
            for case in self.case
            for rule in self.defense
            for per_actor in self.clients_per_actor
            for gpus in self.client_gpus
            for clients in self.clients or (CASES[case]["population"]["clients"],)
        ]

    def config(self, cell: GrowthCell) -> ExperimentConfig:
        """The run of one repeat: rounds that warm up, rounds that are timed, one whose memory is watched."""
        config = bench_config(cell.case, WARM_UP + self.rounds + 1, self.root, self.seed, cell.rule)
        per_actor = cell.clients_per_actor
        own = {
            "clients_per_actor": per_actor if per_actor == "auto" else int(per_actor),
            "client_gpus": cell.client_gpus,
        }
        return config.with_values(population={"clients": cell.clients}, resources=own)

    def obstacle(self, cell: GrowthCell) -> str:
        """Why a cell cannot be measured, or "": its reservations do not fit, or its actors fill the memory."""
        import psutil

        from raysim.backends.capacity import Capacity, NodeCapacity
        from raysim.composition.resources import client_actors, resolved
        from raysim.matrix.layout import Layout

        node = NodeCapacity(self.cpus_per_node or 1, self.gpus_per_node)
        cpus, gpus = int(cell.nodes * node.cpus), cell.nodes * node.gpus
        capacity = Capacity(cpus, gpus, nodes=(node,) * cell.nodes, elsewhere=True)
        try:
            config = resolved(self.config(cell), Layout.flat(1), capacity)
        except ConfigError as error:
            return str(error)
        actors = client_actors(config, capacity).count
        most = int(psutil.virtual_memory().total // ACTOR_BYTES)
        return "" if actors <= most else f"{actors} actors, and this machine's memory holds {most} at most"


@dataclass(frozen=True)
class GrowthCell(Cell):
    """What a round is made of. clients_per_actor, client_gpus: see the configuration's `resources`."""

    nodes: int
    repeat: int
    case: str
    clients: int
    clients_per_actor: str
    client_gpus: float
    rule: str = KRUM

    def variant(self, *, several: bool) -> str:
        """How clients sit in actors, in words: `10 per actor, 0.01 GPU each`; before it the defense, if it is one of `several` or
        another than Krum.
        """
        share = f", {self.client_gpus:g} GPU each" if self.client_gpus else ""
        rule = f"{self.rule}; " if several or self.rule != KRUM else ""
        return f"{rule}{self.clients_per_actor} per actor{share}"

    def __str__(self) -> str:
        sits = self.variant(several=False)
        return f"{self.case}, {self.clients} clients, nodes {self.nodes}, {sits}, repeat {self.repeat}"


class Growth(Study[GrowthPlan, GrowthCell]):
    """Time simulated rounds over a grid of clients, nodes, clients per actor and GPU shares.

    \b
    raysim bench growth digits --clients 25,50,100,200 --nodes 1,2
    raysim bench growth digits --clients-per-actor auto,1,10 --client-gpus 0,0.01 --gpus-per-node 4
    raysim bench growth leaf --defense krum,pdrr --nodes 1,2 --cpus-per-node 1 --kind namespaces --bandwidth 1gbit

    Cells that cannot be measured (reservations that do not fit, actors that fill the memory) are told of and left out.
    """

    name = "growth"
    title = "What simulated rounds cost"
    plan = GrowthPlan
    tables = TABLES

    def cells(self, plan: GrowthPlan) -> list[GrowthCell]:
        """Those that can be measured, in every repeat in a new order."""
        found: list[GrowthCell] = []
        for nodes in plan.nodes:
            for repeat in range(plan.repeats):
                possible = [cell for cell in plan.grid_of(nodes, repeat) if not plan.obstacle(cell)]
                found += shuffled(possible, plan.seed, "rounds", nodes, repeat)
        return found

    def check(self, plan: GrowthPlan) -> Iterable[str]:
        """Refuse what can be refused before anything starts; a line for every cell that is left out."""
        from cluster.plan import make_plan
        from raysim.composition.samples import load_data

        for nodes in plan.nodes:
            make_plan(nodes=nodes, **plan.cluster)
        for case in plan.case:
            load_data(bench_config(case, 1, plan.root))
        left_out = left_out_of(plan)
        if not self.cells(plan):
            raise ConfigError("grid", "must have a cell that can be measured", left_out[0])
        return [f"left out: {line}" for line in left_out]

    @contextlib.contextmanager
    def opened(self, plan: GrowthPlan, bench: Bench) -> Iterator[RayWatch]:
        """Watches on every node."""
        from raysim.studies.memory import RayWatch

        yield RayWatch()

    def measure(self, plan: GrowthPlan, cell: GrowthCell, bench: RayWatch) -> Mapping[str, Rows]:
        """Rounds on actors of the cell's own; memory in the last repeat."""
        from raysim.studies.rounds.growth_cell import measure_cell

        found = measure_cell(plan, cell, bench if cell.repeat == plan.repeats - 1 else None)
        bench.settle()
        return found

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Median seconds of the rounds that were timed."""
        import numpy as np

        return f"{np.median([row['wall_s'] for row in rows['rounds'] if row['order'] < 0]):.3f} s a round"

    def page(self, plan: GrowthPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See growth_page.py."""
        from raysim.studies.rounds.growth_page import page_of

        return page_of(tables, plan.grid_of(1), left_out_of(plan))


def left_out_of(plan: GrowthPlan) -> list[str]:
    """The cells that cannot be measured, each with its reason."""
    return [
        f"{cell}: {reason}"
        for nodes in plan.nodes
        for cell in plan.grid_of(nodes)
        if (reason := plan.obstacle(cell))
    ]
