"""What the server spends on tasks and objects, as it would for up to a thousand workers: `raysim bench tasks`.

Workers are simulated: the server keeps as many tasks in flight, and makes as many row blocks, as it would for that many;
the few CPUs of this machine carry them out, on payloads of a few numbers. So processor seconds of the server's process
count, Ray's own threads in it included.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from raysim.backends.base import Backend
from raysim.backends.telemetry import Telemetry
from raysim.formats import significant
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Numbers
from raysim.studies.study import Bench, Cell, OnCluster, Page, Study, columns
from raysim.studies.table import gathered, ordered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

SHORT, OBJECTS, DRAWN = "tasks", "tasks that leave an object", "row blocks, made and stacked"
ON_ROWS, ON_COLUMNS, SUM = "a task for each row block", "a task for each column shard", "a sum of all rows"

TIMES = 10
"""Column tasks and sums are few: so often in a row, since the server's process also ends what thousands of tasks before left to do."""

BLOCKS_PER_WORKER = 2
"""As `row_blocks.rows_per_block` makes at least."""


class TasksPlan(OnCluster):
    """How many workers, tasks and columns."""

    grid: ClassVar = frozenset({"workers", "nodes"})
    workers: Numbers = Field((10, 32, 100, 320, 1000), description="simulated, with commas between")
    nodes: Numbers = Field((2,), description="numbers of nodes, with commas between")
    tasks: PositiveInt = Field(4000, description="of a stage that does not work on rows")
    columns: PositiveInt = Field(256, description="of the rows, of which every block has one")
    shards: PositiveInt = Field(4, description="column shards")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    seed: Count = Field(0, description="what the rows are drawn from")


@dataclass(frozen=True)
class TasksCell(Cell):
    """A server with a number of workers, on a number of nodes."""

    nodes: int
    workers: int


@dataclass
class Handed:
    """What a backend was given to do: tasks, results that are left behind, the most arguments of a task."""

    tasks: int = 0
    objects: int = 0
    arguments: int = 0

    def count(self, items: Sequence[tuple[object, ...]], keep: int) -> None:
        """Add the tasks of a stage."""
        self.tasks += len(items)
        self.objects += keep * len(items)
        self.arguments = max([self.arguments, *map(len, items)])


@dataclass(frozen=True)
class Simulated:
    """A backend that takes itself to have more workers than there are."""

    backend: Backend
    handed: Handed = field(default_factory=Handed)

    @classmethod
    def of(cls, backend: Backend, workers: int) -> Simulated:
        """The same backend for this number of workers, with telemetry of its own."""
        view = copy.copy(backend)
        view.workers, view.telemetry = workers, Telemetry(node=backend.telemetry.node)
        made, do = cls(view), view.map

        def counted(stage: str, fn: Any, items: Any, *, keep: int = 0, **more: Any) -> list[Any]:
            made.handed.count(items, keep)
            return do(stage, fn, items, keep=keep, **more)

        vars(view)["map"] = counted
        return made

    def measured(self, work: Callable[[], object]) -> dict[str, object]:
        """Tasks, objects, arguments and seconds of one piece of work, and the server's memory after it."""
        import psutil

        from raysim.studies.memory import unshared

        vars(self.handed).update(vars(Handed()))
        wall_s, server_s = time.perf_counter(), time.process_time()
        work()
        spent = {"wall_s": time.perf_counter() - wall_s, "server_s": time.process_time() - server_s}
        self.backend.telemetry.drain()
        return {**spent, **vars(self.handed), "server_bytes": unshared(psutil.Process())}


class Tasks(Study[TasksPlan, TasksCell]):
    """Measure what the server spends on a task and on an object, for up to a thousand simulated workers.

    \b
    raysim bench tasks --nodes 4 --cpus-per-node 1
    raysim bench tasks --workers 10,1000 --nodes 1,4
    """

    name = "tasks"
    title = "What the server spends on tasks and objects"
    plan = TasksPlan
    tables: ClassVar = {
        "tasks": TableSchema(
            "tasks",
            columns(
                nodes=("int32", "nodes of the cluster"),
                workers=("int32", "simulated: tasks in flight and row blocks as for that many"),
                stage=("string", "what was done"),
                repeat=("int32", "from 0"),
                tasks=("int32", "tasks"),
                objects=("int32", "results left where they were made"),
                arguments=("int32", "the most arguments that one task was given"),
                server_s=(
                    "float64",
                    "processor seconds of the server's process, Ray's threads in it included",
                ),
                wall_s=("float64", "wall-clock seconds, in which a few CPUs carry all tasks out"),
                server_bytes=(
                    "int64",
                    "resident bytes of the server's process that it shares with no other, after it",
                ),
            ),
        )
    }

    def cells(self, plan: TasksPlan) -> list[TasksCell]:
        """See Study."""
        return [TasksCell(nodes, workers) for nodes in plan.nodes for workers in plan.workers]

    def measure(self, plan: TasksPlan, cell: TasksCell, bench: Bench) -> Mapping[str, Rows]:
        """Every stage in turn, all of them once more for each repeat."""
        simulated = Simulated.of(bench.backend, cell.workers)
        rows: list[dict[str, object]] = []
        for repeat in range(-1, plan.repeats):
            for stage, work in stages(plan, simulated.backend):
                found = simulated.measured(work)
                if repeat >= 0:  # the first one warms up
                    rows.append({"stage": stage, "repeat": repeat, **found})
        return {"tasks": rows}

    def page(self, plan: TasksPlan, tables: Mapping[str, pa.Table]) -> Page:
        """A table for every number of nodes."""
        table = tables["tasks"]
        sections = []
        for nodes in plan.nodes:
            here = table.filter(_equal(table, "nodes", nodes))
            if len(here):
                sections += [f"## {nodes} node{'s' if nodes > 1 else ''}", *_tables(here)]
        note = (
            "Workers are simulated: the server has as many tasks in flight and row blocks as for so many, and a few CPUs carry "
            f"them out. Column tasks and sums: {TIMES} times in a row. Medians over the repeats."
        )
        return Page([*sections, note], {"server": ("Server time of a task", _figure(table))})


def stages(plan: TasksPlan, backend: Backend) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, work) of what is measured; what comes later works on the rows that were drawn."""
    from raysim.engine.synthetic_updates import synthetic_updates
    from raysim.matrix.layout import Layout
    from raysim.matrix.updates import Updates

    items = [(number,) for number in range(plan.tasks)]
    yield SHORT, lambda: backend.map("tasks", _same, items)
    yield OBJECTS, lambda: backend.map("objects", _left, items, keep=1)
    count = BLOCKS_PER_WORKER * backend.workers
    bounds = tuple(np.linspace(0, plan.columns, min(plan.shards, plan.columns) + 1).astype(int).tolist())
    drawn: list[Updates] = []

    def draw() -> None:
        layout = Layout.flat(plan.columns)
        rows, _ = synthetic_updates(
            backend, layout, count, seed=plan.seed, malicious=0, bounds=bounds, rows_per_block=1
        )
        drawn.append(rows)

    yield DRAWN, draw
    yield ON_ROWS, lambda: drawn[0].map_rows("rows", _lengths)
    yield ON_COLUMNS, lambda: [drawn[0].map_columns("columns", _means) for _ in range(TIMES)]
    yield SUM, lambda: [drawn[0].combine(np.ones(count)) for _ in range(TIMES)]


def _same(value: object) -> object:
    return value


def _left(value: object) -> tuple[np.ndarray, None]:
    return np.zeros(4, np.float32), None


def _lengths(rows: np.ndarray) -> list[int]:
    return [len(row) for row in rows]


def _means(columns: np.ndarray) -> np.ndarray:
    means: np.ndarray = columns.mean(axis=0)
    return means


def _equal(table: pa.Table, column: str, value: object) -> Any:
    import pyarrow.compute as pc

    return pc.equal(table[column], value)


def _tables(table: pa.Table) -> list[str]:
    """Server time of a task, tasks a second, and the longest lists of arguments, against workers."""
    workers, names = ordered(table, "workers"), ordered(table, "stage")
    server, wall, tasks, arguments, objects = (
        gathered(table, column, "workers", "stage")
        for column in ("server_s", "wall_s", "tasks", "arguments", "objects")
    )

    def lines(value: Callable[[tuple[int, str]], str]) -> list[list[str]]:
        return [[name, *(value((count, name)) for count in workers)] for name in names]

    def rate(key: tuple[int, str]) -> str:
        both = (tasks[key].median + objects[key].median) / wall[key].median
        return f"{tasks[key].median / wall[key].median:,.0f} ({both:,.0f})"

    memory = gathered(table, "server_bytes", "workers")
    heads = [f"{count:,}" for count in workers]
    kept = ["server's memory (MiB)", *(f"{memory[count].all.max() / 2**20:.0f}" for count in workers)]
    widest = lines(lambda key: f"{arguments[key].median:,.0f}")
    return [
        markdown.table(
            ["server, microseconds a task; workers", *heads],
            lines(lambda key: significant(1e6 * server[key].median / tasks[key].median)),
        ),
        markdown.table(["tasks a second (with objects); workers", *heads], lines(rate)),
        markdown.table(["most arguments of a task; workers", *heads], [*widest, kept]),
    ]


def _figure(table: pa.Table) -> Figure:
    """Server time of a task against workers, on most nodes."""
    from raysim.studies.figure import curve, finish, panels
    from raysim.studies.table import Values

    most = max(ordered(table, "nodes"))
    here = table.filter(_equal(table, "nodes", most))
    workers, names = ordered(here, "workers"), ordered(here, "stage")
    server, tasks = (gathered(here, column, "workers", "stage") for column in ("server_s", "tasks"))
    figure, (axes,) = panels(1)
    for place, name in enumerate(names):
        each = [Values(1e6 * server[n, name].all / tasks[n, name].all) for n in workers]
        curve(axes, workers, each, place, name)
    finish(axes, title="Server time of a task", x="simulated workers", ticks=workers, log="xy")
    axes.set_ylabel("microseconds")
    return figure
