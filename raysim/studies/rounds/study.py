"""`raysim bench rounds`: a simulated round beside a bare PyTorch loop over the same clients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from raysim.errors import ConfigError, unknown_name
from raysim.options import PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Written, listed
from raysim.studies.rounds.cases import CASES, WARM_UP, bench_config
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns
from raysim.studies.table import gathered, ordered

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.studies.rounds.measure import RoundTimes


MEASURED = ("bare_s", "threaded_s", "simulated_s", "idle")
"""Of every repeat."""


class RoundsPlan(OnBackend):
    """The cases and how they are measured."""

    grid: ClassVar = frozenset({"case"})
    case: Annotated[tuple[str, ...], BeforeValidator(listed), Written("CASE", argument=True, many=True)] = (
        Field(
            ("digits", "cifar10", "dirichlet", "lognormal"),
            description="digits, cifar10, dirichlet, lognormal, leaf; default: all but the last",
        )
    )
    repeats: PositiveInt = Field(7, description="counted repeats")
    root: str | None = Field(None, description="folder of the data sets; default: $RAYSIM_DATA")
    workers: PositiveInt = Field(2, description="Ray CPUs, and so client actors; in process there is one")
    uneven: bool = Field(
        False, description="bind each worker to a core, and let the first share its own with a busy neighbour"
    )

    @model_validator(mode="after")
    def _cores(self) -> Self:
        cores = len(os.sched_getaffinity(0))
        if self.uneven and self.backend != "ray":
            raise ConfigError("uneven", "needs workers, and so backend ray", True, False)
        if self.uneven and self.workers > cores:
            raise ConfigError("workers", "must have a core each with uneven", self.workers, cores)
        return self

    @field_validator("case")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in CASES:
                raise unknown_name("case", name, CASES)
        return value


@dataclass(frozen=True)
class RoundsCell(Cell):
    """One case."""

    case: str


class Rounds(Study[RoundsPlan, RoundsCell]):
    """Time a simulated round beside a bare PyTorch loop over the same clients.

    \b
    raysim bench rounds
    raysim bench rounds digits --repeats 3
    raysim bench rounds dirichlet lognormal --uneven

    Each repeat times the bare loop, with one thread and with as many as there are workers, and then one whole simulated
    round: broadcast, local training, upload, Krum, evaluation, telemetry, tables and checkpoint. The ideal is the time
    with one thread divided by the number of workers. In `dirichlet` and `lognormal` clients hold very different numbers of
    samples; the idle share of the workers is printed for all. `--uneven`: one of them has half a core. Rounds over a grid of settings: `raysim bench growth`.
    """

    name = "rounds"
    title = "A simulated round beside a bare loop"
    plan = RoundsPlan
    tables: ClassVar = {
        "rounds": TableSchema(
            "rounds",
            columns(
                case=("string", "name of the case"),
                repeat=("int32", "from 0"),
                workers=("int32", "of the simulated round"),
                bare_s=("float64", "seconds of the bare loop, one thread"),
                threaded_s=("float64", "of the bare loop, as many threads as workers"),
                simulated_s=("float64", "of the simulated round"),
                idle=("float64", "share of the workers' time in training that passes without a call"),
            ),
        ),
        "workers": TableSchema(
            "workers",
            columns(
                case=("string", "name of the case"),
                repeat=("int32", "from 0"),
                worker=("int32", "from 0; with `uneven` that is the one with half a core"),
                idle=("float64", "share of its time in training that passes without a call"),
            ),
        ),
        "stages": TableSchema(
            "stages",
            columns(
                case=("string", "name of the case"),
                stage=("string", "of the simulated round"),
                wall_s=("float64", "seconds a round, mean"),
            ),
        ),
    }

    def cells(self, plan: RoundsPlan) -> list[RoundsCell]:
        """See Study."""
        return [RoundsCell(case) for case in plan.case]

    def measure(self, plan: RoundsPlan, cell: RoundsCell, bench: Bench) -> Mapping[str, Rows]:
        """See measure.py."""
        from raysim.studies.rounds.measure import measure

        config = bench_config(cell.case, WARM_UP + plan.repeats, plan.root)
        on_ray = plan.backend == "ray"
        times = measure(config, plan.repeats, plan.workers, on_ray=on_ray, uneven=plan.uneven)
        parts = {name: getattr(times, name) for name in MEASURED}
        rows = [
            {
                "repeat": repeat,
                "workers": times.workers,
                **{name: float(s[repeat]) for name, s in parts.items()},
            }
            for repeat in range(plan.repeats)
        ]
        idle = [
            {"repeat": repeat, "worker": worker, "idle": float(share)}
            for (repeat, worker), share in np.ndenumerate(times.idle_by_worker)
        ]
        return {
            "rounds": rows,
            "workers": idle,
            "stages": [{"stage": n, "wall_s": s} for n, s in times.stages.items()],
        }

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Median seconds of a simulated round."""
        return f"{np.median([row['simulated_s'] for row in rows['rounds']]):.3f} s a round"

    def page(self, plan: RoundsPlan, tables: Mapping[str, pa.Table]) -> Page:
        """Times and ratios, a table a case."""
        from raysim.studies.figure import stacked
        from raysim.studies.rounds.measure import RoundTimes

        table = tables["rounds"]
        found = {name: gathered(table, name, "case") for name in MEASURED}
        workers, stages = (
            gathered(table, "workers", "case"),
            gathered(tables["stages"], "wall_s", "case", "stage"),
        )
        each = gathered(tables["workers"], "idle", "case", "worker")
        sections = []
        for case in ordered(table, "case"):
            count = int(workers[case].median)
            bare, threaded, simulated, idle = (values[case].all for values in found.values())
            spent = {stage: values.median for (of, stage), values in stages.items() if of == case}
            by_worker = [values.all for (of, _), values in sorted(each.items()) if of == case]
            idle_of = np.stack(by_worker, axis=1) if by_worker else np.zeros((0, 0))
            found_times = RoundTimes(bare, threaded, simulated, count, spent, idle, idle_of)
            sections.append(_section(case, found_times, uneven=plan.uneven))
        parts: dict[str, dict[str, float]] = {}
        for (case, stage), values in stages.items():
            parts.setdefault(case, {})[stage] = values.median
        caption = "Seconds of a simulated round by stage"
        return Page(sections, {"stages": (caption, stacked({"": parts}, x=f"{caption}, means"))})


def _section(case: str, times: RoundTimes, *, uneven: bool) -> str:
    config = bench_config(case, 1)
    training = config.training
    rows = {
        "bare PyTorch loop, one process, one thread (s)": times.bare_s,
        "bare PyTorch loop, one process, as many threads as workers (s)": times.threaded_s,
        f"ideal: bare / {times.workers} workers (s)": times.bare_s / times.workers,
        "simulated round (s)": times.simulated_s,
        "simulated / ideal, pair by pair": times.ratios,
        "bare loop on the same cores / simulated round": times.speed_ups,
        "idle share of the workers while clients train": times.idle,
    }
    for worker in range(times.idle_by_worker.shape[1]):
        of_which = ", which has half a core" if uneven and worker == 0 else ""
        rows[f"idle share of worker {worker}{of_which}"] = times.idle_by_worker[:, worker]
    lines = [[name, *markdown.extent(values)] for name, values in rows.items()]
    parts = ", ".join(f"{stage} {seconds * 1e3:.1f}" for stage, seconds in times.stages.items())
    return "\n".join(
        [
            f"## {case}: {config.population.clients} clients, {config.model.name}",
            "",
            f"{training.epochs} epoch of batches of {training.batch_size}, defense {config.defense[0].name}.",
            "",
            markdown.table(["", "min", "median", "max"], lines),
            "",
            f"Stages (ms a round, mean): {parts}",
        ]
    )
