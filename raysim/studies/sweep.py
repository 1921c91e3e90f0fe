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
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from raysim.config.load import load_config
from raysim.config.method_text import split_methods
from raysim.errors import ConfigError, DataError, RunError
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.of_runs import OfRuns, placed
from raysim.studies.options import Seeds, Written
from raysim.studies.study import Bench, Cell, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.config.schema import ExperimentConfig

AS_GIVEN = "as given"
"""The point of a sweep that varies nothing but seeds."""


class SweepPlan(OfRuns):
    """A configuration, the values that keys of it take, and seeds."""

    grid: ClassVar = OfRuns.grid | {"request", "point", "seeds", "metric"}
    request: Annotated[
        tuple[str, ...], Written("CONFIG.yaml|PRESET|KEY=V1,V2...", argument=True, many=True)
    ] = Field((), description="a file or a preset, then keys and their values")
    point: Annotated[tuple[str, ...], Written("'KEY=V KEY=V...'", many=True)] = Field(
        (),
        description="values that go together, spaces between; the other keys' values are combined with each",
    )
    seeds: Seeds = Field((0,), description="with commas between")
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
        for key in self.together:
            if key in self.values:
                raise ConfigError("point", "must name other keys than those with values of their own", key)
        _ = self.settings
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
            key, text = _pair("request", "must be a file or preset, then KEY=VALUE,...", word)
            values = split_methods(key, [text]) or [text]
            if key in found or len(set(values)) < len(values):
                raise ConfigError(key, "must be given once, with different values", word)
            found[key] = values
        return found

    @property
    def together(self) -> list[str]:
        """The keys whose values go together."""
        return list(dict.fromkeys(key for point in self._points_given for key in point))

    @property
    def varied(self) -> list[str]:
        """The keys that do not have one value."""
        return [*self.together, *(key for key, values in self.values.items() if len(values) > 1)]

    @property
    def settings(self) -> dict[str, dict[str, str]]:
        """Every combination of the values that vary, as the table calls it (`defense=krum rounds=5`) -> the value of every key."""
        each = [[(key, value) for value in values] for key, values in self.values.items()]
        found: dict[str, dict[str, str]] = {}
        for point, chosen in itertools.product(self._points_given or [{}], itertools.product(*each)):
            own = {**point, **{key: value for key, value in chosen if len(self.values[key]) > 1}}
            name = " ".join(f"{key}={value}" for key, value in own.items()) or AS_GIVEN
            if name in found:
                raise ConfigError("point", "must be given once", name)
            found[name] = {**dict(chosen), **point}
        return found

    @property
    def _points_given(self) -> list[dict[str, str]]:
        rule = "must be KEY=VALUE words with spaces between"
        return [dict(_pair("point", rule, word) for word in text.split()) for text in self.point]

    def beside_grid(self) -> dict[str, Any]:
        """See Plan: what every run has in common."""
        fixed = {key: values[0] for key, values in self.values.items() if key not in self.varied}
        return {**super().beside_grid(), "source": self.source, "fixed": fixed, "varied": sorted(self.varied)}

    def points(self) -> list[str]:
        """The names of all settings."""
        return list(self.settings)

    def config(self, cell: SweepCell) -> ExperimentConfig:
        """The configuration of one run."""
        overrides = [f"{key}={value}" for key, value in self.settings[cell.point].items()]
        return load_config(self.source, [*overrides, f"seed={cell.seed}"], self.scale)


def _pair(field: str, rule: str, word: str) -> tuple[str, str]:
    """Key and value of a word; ConfigError for one without, and for a seed."""
    key, mark, text = word.partition("=")
    if not mark:
        raise ConfigError(field, rule, word)
    if key == "seed":
        raise ConfigError("seed", "must be given as --seeds", word, f"--seeds {text}")
    return key, text


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
    raysim sweep backdoors --point "attack=dba population.malicious=4" --point attack=trigger --seeds 0,1

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

    def around(self, plan: SweepPlan) -> contextlib.AbstractContextManager[SweepPlan]:
        """See placed."""
        return placed(plan, plan.config(self.cells(plan)[0]))

    def measure(self, plan: SweepPlan, cell: SweepCell, bench: Bench) -> Mapping[str, Rows]:
        """Finish the run and measure it; no row if it failed: the next sweep tries again."""
        from raysim.studies.kept_runs import finish, measures_of

        path = bench.out / "runs" / cell.name
        try:
            finish(plan.config(cell), path, plan.where, plan.address, plan.tracker)
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


def points_of(plan: SweepPlan, found: Sequence[str]) -> list[str]:
    """The plan's points that were measured, then others that were before."""
    return [point for point in dict.fromkeys([*plan.points(), *found]) if point in found]
