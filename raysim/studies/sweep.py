"""`raysim sweep`: a run for every combination of values and seeds, several at once, and a table of their means.

Ray Tune was considered and is not used. A grid is measured whole, so its search algorithms and early stopping have nothing
to decide. Its admission reserves a placement group for each trial, while a run reserves its client actors itself, in
groups that spread over nodes and cannot lie inside another: resources would be held twice, or Tune would be told of none.
It would keep a second store of results beside the runs' own, which already resume to the byte, and adds tensorboardX.
Here every run is a driver of its own on one cluster: Ray queues what does not fit, and as many start as there is room for.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raysim.config.load import load_config
from raysim.config.method_text import split_methods
from raysim.errors import ConfigError, DataError, RunError
from raysim.options import Count
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.options import Seeds, Written
from raysim.studies.study import Bench, Cell, InProcesses, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.backends.capacity import Capacity
    from raysim.config.schema import ExperimentConfig

AS_GIVEN = "as given"
"""The point of a sweep that varies nothing but seeds."""


class SweepPlan(InProcesses):
    """A configuration, the values that keys of it take, and seeds."""

    grid: ClassVar = frozenset({"request", "seeds", "workers", "address", "metric"})
    request: Annotated[
        tuple[str, ...], Written("CONFIG.yaml|PRESET|KEY=V1,V2...", argument=True, many=True)
    ] = Field((), description="a file or a preset, then keys and their values")
    seeds: Seeds = Field((0,), description="with commas between")
    backend: Literal["ray", "inprocess"] = Field(
        "ray", description="inprocess: each run in a process, no Ray"
    )
    address: str | None = Field(
        None, description="of a Ray cluster that is up; default: a new one for all runs"
    )
    workers: Count = Field(0, description="runs at a time; 0: as many as there is room for")
    scale: Literal["paper", "small"] = Field("paper", description="of a paper's preset")
    metric: Literal[
        "main_accuracy",
        "attack_success_rate",
        "recall",
        "precision",
        "fpr",
        "auc_score",
        "round_s",
        "defense_s",
    ] = Field("main_accuracy", description="what the figure shows")

    @model_validator(mode="after")
    def _taken_apart(self) -> Self:
        for word in self.request[self.source is not None :]:
            if "=" not in word:
                raise ConfigError("request", "must be a file or preset, then KEY=VALUE,...", word)
        if self.backend == "inprocess" and self.address is not None:
            raise ConfigError("address", "belongs to backend ray", self.address)
        _ = self.values
        return self

    @property
    def source(self) -> str | None:
        """The file or preset; None: the quickstart."""
        return self.request[0] if self.request and "=" not in self.request[0] else None

    @property
    def values(self) -> dict[str, list[str]]:
        """Key -> its values, as they were written."""
        found: dict[str, list[str]] = {}
        for word in self.request[self.source is not None :]:
            key, _, text = word.partition("=")
            if key == "seed":
                raise ConfigError("seed", "must be given as --seeds", word, f"--seeds {text}")
            values = split_methods(key, [text]) or [text]
            if key in found or len(set(values)) < len(values):
                raise ConfigError(key, "must be given once, with different values", word)
            found[key] = values
        return found

    @property
    def varied(self) -> list[str]:
        """The keys with more than one value."""
        return [key for key, values in self.values.items() if len(values) > 1]

    def beside_grid(self) -> dict[str, Any]:
        """See Plan: what every run has in common."""
        fixed = {key: values[0] for key, values in self.values.items() if key not in self.varied}
        return {**super().beside_grid(), "source": self.source, "fixed": fixed, "varied": sorted(self.varied)}

    def points(self) -> list[str]:
        """Every combination of the values that vary: `defense=krum rounds=5`."""
        choices = [[f"{key}={value}" for value in self.values[key]] for key in self.varied]
        return [" ".join(point) or AS_GIVEN for point in itertools.product(*choices)]

    def config(self, cell: SweepCell) -> ExperimentConfig:
        """The configuration of one run."""
        place = self.points().index(cell.point)
        choices = [[(key, value) for value in self.values[key]] for key in self.varied]
        point = dict(list(itertools.product(*choices))[place])
        chosen = {key: point.get(key, values[0]) for key, values in self.values.items()}
        overrides = [*(f"{key}={value}" for key, value in chosen.items()), f"seed={cell.seed}"]
        return load_config(self.source, overrides, self.scale)


@dataclass(frozen=True)
class SweepCell(Cell):
    """One run."""

    point: str
    seed: int


class Sweep(Study[SweepPlan, SweepCell]):
    """Run an experiment for every combination of values and seeds; means with 95 % confidence intervals over the seeds.

    \b
    raysim sweep quickstart defense=krum,median,pdrr,rule=median population.malicious=0.1,0.2 --seeds 0,1,2
    raysim sweep mine.yaml training.optimizer.lr=0.01,0.05 rounds=20 --seeds 0,1 --backend inprocess
    raysim sweep mine.yaml attack=noise,ipm --seeds 0,1,2 --resume

    The runs are kept under DIR/runs, to be reported on, resumed and compared. A killed sweep goes on with --resume: finished
    runs are skipped, begun ones resumed. More values and seeds may be added then. The table is written as Markdown, CSV
    and LaTeX (booktabs), and drawn: a heat map over the first two keys that vary, a curve over one.
    """

    name = "sweep"
    title = "Sweep"
    plan = SweepPlan
    tables: ClassVar = {
        "sweep": TableSchema(
            "sweep",
            columns(
                point=("string", "the values that vary"),
                seed=("int64", "of the run"),
                main_accuracy=("float64", "in the last round that measured it"),
                attack_success_rate=("float64", "in the last round that measured it"),
                recall=("float64", "mean over the rounds that define it"),
                precision=("float64", "mean over the rounds that define it"),
                fpr=("float64", "mean over the rounds that define it"),
                auc_score=("float64", "mean over the rounds that define it"),
                round_s=("float64", "seconds a round, median without the first"),
                defense_s=("float64", "the defense's seconds a round, median without the first"),
                run=("string", "folder of the run, from DIR"),
            ),
        )
    }

    def cells(self, plan: SweepPlan) -> list[SweepCell]:
        """Seed by seed, so that the first table is of all points."""
        return [SweepCell(point, seed) for seed in plan.seeds for point in plan.points()]

    def check(self, plan: SweepPlan) -> Iterable[str]:
        """Refuse a point whose configuration is none, before anything starts."""
        from raysim.composition.compose import prepare

        cells = [SweepCell(point, plan.seeds[0]) for point in plan.points()]
        for cell in cells:
            prepare(plan.config(cell))
        return [f"{len(cells)} points x {len(plan.seeds)} seeds"]

    @contextlib.contextmanager
    def around(self, plan: SweepPlan) -> Iterator[SweepPlan]:
        """One cluster for all runs, and as many runs at a time as it has room for."""
        config = plan.config(self.cells(plan)[0])
        if plan.backend == "inprocess":
            cpus = len(os.sched_getaffinity(0))
            room = max(1, cpus // config.resources.threads)
            yield plan.model_copy(update={"workers": plan.workers or room})
            return
        from raysim.backends import ray_connection

        with ray_connection.connected(plan.address):
            import ray

            address = plan.address or ray.get_runtime_context().gcs_address
            room = room_for(config, ray_connection.capacity())
            yield plan.model_copy(update={"workers": plan.workers or room, "address": address})

    def measure(self, plan: SweepPlan, cell: SweepCell, bench: Bench) -> Mapping[str, Rows]:
        """Finish the run and measure it; no row where it failed: the next sweep tries again."""
        from raysim.studies.kept_runs import finish, measures_of

        path = bench.out / "runs" / cell.name
        try:
            finish(plan.config(cell), path, plan.backend, plan.address)
        except (DataError, RunError) as error:
            print(f"{cell}: {error}", file=sys.stderr, flush=True)
            return {"sweep": []}
        return {"sweep": [{**measures_of(path), "run": f"runs/{cell.name}"}]}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Accuracy."""
        return f"accuracy {rows['sweep'][0]['main_accuracy']:.3f}" if rows["sweep"] else "failed"

    def page(self, plan: SweepPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See sweep_page.py."""
        from raysim.studies.sweep_page import page_of

        return page_of(plan, tables["sweep"])


def room_for(config: ExperimentConfig, capacity: Capacity) -> int:
    """How many runs of this configuration a cluster has room for at a time: by the CPUs that their client actors work on and
    one for the defense's tasks, and by the GPUs that they reserve.
    """
    from raysim.composition.resources import client_actors

    actors = client_actors(config, capacity)
    cpus = max(actors.count * max(actors.cpus, config.resources.threads), 1) + 1
    room = capacity.cpus / cpus
    if actors.gpus:
        room = min(room, capacity.gpus / (actors.count * actors.gpus))
    return max(1, int(room + 1e-9))


def points_of(plan: SweepPlan, found: Sequence[str]) -> list[str]:
    """The plan's points that were measured, then others that were before."""
    return [point for point in dict.fromkeys([*plan.points(), *found]) if point in found]
