"""`raysim bench rounds` over a grid: what a simulated round costs as clients, nodes and client actors grow.

A cell is one case with so many clients, on so many nodes, in so many actors, with such a share of a GPU each. Every
number of nodes gets a cluster of its own, and a driver process on it (worker.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from cluster.clusters import bring_up
from cluster.plan import make_plan
from raysim import rng
from raysim.backends.capacity import Capacity
from raysim.composition.resources import client_actors, resolved
from raysim.composition.samples import load_data
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, unknown_name
from raysim.matrix.layout import Layout
from raysim.studies.cell_store import run_driver, write_json
from raysim.studies.option_lists import at_least_one
from raysim.studies.rounds.measure import CASES, WARM_UP, bench_config
from raysim.studies.rounds.tables import PARTS

ACTOR_BYTES = 190 * 2**20
"""Memory of its own that one actor's process takes at least, torch included."""


@dataclass(frozen=True)
class GrowthCell:
    """What a round is made of. clients_per_actor, client_gpus: see the configuration's `resources`."""

    case: str
    clients: int
    nodes: int
    clients_per_actor: int | str
    client_gpus: float

    @property
    def variant(self) -> str:
        """How clients sit in actors, in words: `10 per actor, 0.01 GPU each`."""
        share = f", {self.client_gpus:g} GPU each" if self.client_gpus else ""
        return f"{self.clients_per_actor} per actor{share}"

    def part(self, repeat: int) -> str:
        """The name of the file of one repeat."""
        gpus = f"{self.client_gpus:g}"
        where = f"{self.case}-clients{self.clients}-nodes{self.nodes}"
        return f"{where}-peractor{self.clients_per_actor}-gpus{gpus}-repeat{repeat}"

    def __str__(self) -> str:
        return f"{self.case}, {self.clients} clients, nodes {self.nodes}, {self.variant}"


@dataclass(frozen=True)
class GrowthPlan:
    """The grid and how it is measured. clients: () is the case's own number. kind and what follows it: see
    `cluster.bring_up`. rounds: timed in each repeat. root: of the data sets.
    """

    cases: tuple[str, ...]
    clients: tuple[int, ...] = ()
    nodes: tuple[int, ...] = (1,)
    clients_per_actor: tuple[int | str, ...] = ("auto",)
    client_gpus: tuple[float, ...] = (0.0,)
    repeats: int = 5
    rounds: int = 3
    kind: str = "raylets"
    bandwidth: str | None = None
    cpus_per_node: int = 1
    gpus_per_node: int = 0
    seed: int = 0
    root: str | None = None

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> GrowthPlan:
        """From what plan.json holds."""
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**read)

    def method(self) -> dict[str, Any]:
        """Everything but the grid: what must be the same for cells to stand in one table."""
        grid = ("cases", "clients", "nodes", "clients_per_actor", "client_gpus", "repeats")
        return {key: value for key, value in asdict(self).items() if key not in grid}

    def cells(self, nodes: int) -> list[GrowthCell]:
        """The cells of one number of nodes."""
        return [
            GrowthCell(case, clients, nodes, per_actor, gpus)
            for case in self.cases
            for per_actor in self.clients_per_actor
            for gpus in self.client_gpus
            for clients in self.clients or (CASES[case]["population"]["clients"],)
        ]

    def possible(self, nodes: int) -> list[GrowthCell]:
        """Those of them that can be measured."""
        return [cell for cell in self.cells(nodes) if not self.obstacle(cell)]

    def in_order(self, nodes: int, repeat: int) -> list[GrowthCell]:
        """The same in this repeat's order."""
        cells = self.possible(nodes)
        order = rng.generator(self.seed, "bench", "rounds", nodes, repeat).permutation(len(cells))
        return [cells[place] for place in order]

    def config(self, cell: GrowthCell) -> ExperimentConfig:
        """The run of one repeat: rounds that warm up, rounds that are timed, one whose memory is watched."""
        config = bench_config(cell.case, WARM_UP + self.rounds + 1, self.root, self.seed)
        own = {"clients_per_actor": cell.clients_per_actor, "client_gpus": cell.client_gpus}
        return config.with_values(population={"clients": cell.clients}, resources=own)

    def obstacle(self, cell: GrowthCell) -> str:
        """Why a cell cannot be measured, or "": its reservations do not fit, or its actors fill the memory."""
        capacity = Capacity(cell.nodes * self.cpus_per_node, float(cell.nodes * self.gpus_per_node))
        try:
            config = resolved(self.config(cell), Layout.flat(1), capacity)
        except ConfigError as error:
            return str(error)
        actors = client_actors(config, capacity.workers(config.resources.threads)).count
        most = int(psutil.virtual_memory().total // ACTOR_BYTES)
        return "" if actors <= most else f"{actors} actors, and this machine's memory holds {most} at most"


def measure(
    plan: GrowthPlan, out: Path, *, resume: bool = False, tell: Callable[[str], None] = lambda line: None
) -> None:
    """Measure the plan's cells that `out` lacks, and write the tables there (see tables.py).

    Cells that cannot be measured are told of and left out. Raises ConfigError for a plan that cannot be carried out,
    before anything starts; RecordError for an `out` that holds other measurements, or any without `resume`; RunError
    where a driver fails: what it finished stays.
    """
    check(plan)
    left_out = {
        str(cell): reason
        for nodes in plan.nodes
        for cell in plan.cells(nodes)
        if (reason := plan.obstacle(cell))
    }
    for cell, reason in left_out.items():
        tell(f"left out: {cell}: {reason}")
    if not any(plan.possible(nodes) for nodes in plan.nodes):
        raise ConfigError("grid", "must have a cell that can be measured", next(iter(left_out.values())))
    machine = PARTS.claim(out, plan.method(), _method_of, resume=resume)
    about = {"environment": machine, "plan": asdict(plan), "left out": left_out}
    write_json(out / "plan.json", about)
    for nodes in plan.nodes:
        parts = [cell.part(repeat) for cell in plan.possible(nodes) for repeat in range(plan.repeats)]
        if all(PARTS.is_finished(out, part) for part in parts):
            continue
        with bring_up(
            plan.kind,
            nodes=nodes,
            cpus_per_node=plan.cpus_per_node,
            gpus_per_node=plan.gpus_per_node,
            bandwidth=plan.bandwidth,
        ) as cluster:
            run_driver(cluster, "raysim.studies.rounds.worker", out, nodes)
    PARTS.merge(out, about)


def check(plan: GrowthPlan) -> None:
    """Refuse what can be refused before anything starts: names, numbers out of range, data that are not there."""
    for case in plan.cases:
        if case not in CASES:
            raise unknown_name("case", case, CASES)
    for key in ("repeats", "rounds"):
        at_least_one(key, getattr(plan, key))
    for nodes in plan.nodes:
        make_plan(plan.kind, nodes, plan.cpus_per_node, plan.gpus_per_node, None, plan.bandwidth)
    for case in plan.cases:
        load_data(bench_config(case, 1, plan.root))


def shares(key: str, text: str) -> tuple[float, ...]:
    """Different shares of a GPU, from 0 to 1, with commas between.

    >>> shares("client-gpus", "0, 0.01")
    (0.0, 0.01)
    """
    try:
        values = tuple(dict.fromkeys(float(word) for word in text.split(",")))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 1 for value in values):
        raise ConfigError(key, "must be numbers from 0 to 1 with commas between", text)
    return values


def per_actor(key: str, text: str) -> tuple[int | str, ...]:
    """Different numbers of clients in an actor, or `auto`, with commas between.

    >>> per_actor("clients-per-actor", "auto,1,10")
    ('auto', 1, 10)
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if not all(word == "auto" or (word.isdecimal() and int(word) > 0) for word in words):
        raise ConfigError(
            key, "must be auto or whole numbers of at least 1, with commas between", text, "auto"
        )
    return tuple(word if word == "auto" else int(word) for word in words)


def _method_of(values: dict[str, Any]) -> dict[str, Any]:
    return GrowthPlan.from_mapping(values).method()
