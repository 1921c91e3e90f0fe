"""`raysim replay`: defenses on the updates that a run recorded, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from raysim.config.method_text import parse_method
from raysim.config.schema import Component
from raysim.errors import ConfigError
from raysim.formats import column_seconds, rate
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Methods, Written
from raysim.studies.study import Bench, Cell, OnCluster, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from raysim.replay.summary import Replayed

RATES = {"recall": "recall", "precision": "precision", "fpr": "FPR", "f1": "F1", "auc_score": "AUC, scores"}

NOTES = """\
Rates are means over rounds. Seconds are the server's wall clock: the median over the rounds after the first that ran
a stage, and that first round apart (in brackets, for stages); those of a defense leave out `load`, the reading of
recorded tiles. Verdicts: the first digits of a SHA-256 over flags, scores and weights of all clients and rounds;
"equal to" says with which others they agree to the byte, `live` being the recorded run."""


class ReplayPlan(OnCluster):
    """A recorded run, the defenses, and where they judge."""

    run: Annotated[str, Written("RUN", argument=True)] = Field(description="the folder of a run: runs/first")
    defense: Methods = Field(
        description="with commas between; a part KEY=VALUE belongs to the name before it"
    )
    rounds: Annotated[str | None, Written("FIRST-LAST")] = Field(
        None, description="default: all recorded rounds"
    )
    warm_up: bool = Field(False, description="judge the first round once before: no start-up is timed")
    backend: Literal["ray", "inprocess"] | None = Field(  # type: ignore[assignment]
        None, description="default: ray with --nodes, --kind or --address, else inprocess: same results"
    )

    @model_validator(mode="before")
    @classmethod
    def _decided(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("address") is not None:
            values = {**values, "kind": "address"}
        if values.get("backend") is None:
            several = str(values.get("nodes", "1")) not in ("1", "(1,)", "[1]")
            on_ray = several or values.get("kind", "raylets") != "raylets"
            values = {**values, "backend": "ray" if on_ray else "inprocess"}
        return values

    @field_validator("run")
    @classmethod
    def _absolute(cls, value: str) -> str:
        return str(Path(value).resolve())

    @field_validator("rounds")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        from raysim.replay.replay import parse_rounds

        parse_rounds(value)
        return value

    @model_validator(mode="after")
    def _links_need_hosts(self) -> ReplayPlan:
        if self.bandwidth is not None and self.kind != "namespaces":
            raise ConfigError("bandwidth", "belongs to kind namespaces", self.bandwidth)
        return self

    def beside_grid(self) -> dict[str, Any]:
        """See Plan: replays of one run stand in one table, however each was made."""
        return {"run": self.run}

    def component(self, cell: ReplayCell) -> Component:
        """The defense of a cell."""
        return Component(**parse_method("defense", cell.defense))


@dataclass(frozen=True)
class ReplayCell(Cell):
    """One replay."""

    nodes: int
    backend: str
    defense: str

    @property
    def suffix(self) -> str:
        """What follows the defense in the name of its folder."""
        return "" if self.backend == "inprocess" else f"@{self.nodes}node{'s' * (self.nodes > 1)}"


class Replay(Study[ReplayPlan, ReplayCell]):
    """Run defenses on the updates that a run recorded: the same rows for each.

    \b
    raysim run record.updates=true --name first
    raysim replay runs/first --defense median,flame,krum,num_byzantine=3
    raysim replay runs/first --defense krum,num_byzantine=3 --nodes 1,2 --warm-up
    raysim replay runs/first --defense flame --nodes 2,4 --kind namespaces --bandwidth 100mbit

    A rule that is not told how many are malicious (num_byzantine) assumes the most that it tolerates; the table says so.
    Verdicts and spans go to RUN/replays/NAME (NAME@2nodes), in tables like those of a run; what is asked for again
    replaces what was there, unless --resume says that it is kept; all replays of the run stand side by side.
    """

    name = "replay"
    title = "Replays side by side"
    plan = ReplayPlan
    replaces = True
    tables: ClassVar = {
        "replays": TableSchema(
            "replays",
            columns(
                defense=("string", "with the options it was given"),
                backend=("string", "ray or inprocess"),
                name=("string", "its folder"),
                title=("string", "how tables call it"),
                nodes=("int32", "nodes it ran on"),
                rounds=("int32", "rounds it judged"),
                **dict.fromkeys(RATES, ("float64", "mean over the rounds that define it")),
                median_s=("float64", "the defense's seconds a round, median without the first"),
                first_s=("float64", "those of the first"),
                moved_bytes=("float64", "bytes a round that came from other nodes"),
                verdicts=("string", "SHA-256 over all rounds"),
                aggregates=("string", "SHA-256 of those of all rounds"),
                live=("string", "what verdicts is for the run itself; empty if that is another defense"),
                assumes=("string", "how many uploads it takes to be malicious in the first round"),
            ),
        ),
        "stages": TableSchema(
            "stages",
            columns(
                name=("string", "folder of the replay"),
                stage=("string", "of it"),
                median_s=("float64", "seconds a round, median without the first"),
                first_s=("float64", "those of the first"),
                total_s=("float64", "over all rounds"),
            ),
        ),
    }

    def cells(self, plan: ReplayPlan) -> list[ReplayCell]:
        """See Study."""
        return [ReplayCell(nodes, str(plan.backend), label) for nodes in plan.nodes for label in plan.defense]

    def check(self, plan: ReplayPlan) -> Iterable[str]:
        """Refuse what is not a run, has recorded nothing in these rounds, or cannot be judged."""
        from raysim.replay.replay import parse_rounds, prepared
        from raysim.runs.directory import RunDirectory

        RunDirectory(Path(plan.run)).require()
        prepared(
            Path(plan.run), [plan.component(cell) for cell in self.cells(plan)], parse_rounds(plan.rounds)
        )
        return ()

    def measure(self, plan: ReplayPlan, cell: ReplayCell, bench: Bench) -> Mapping[str, Rows]:
        """Replay, and read what that left behind."""
        from raysim.replay.replay import parse_rounds, replay
        from raysim.replay.summary import read_replay

        [directory] = replay(
            Path(plan.run),
            [plan.component(cell)],
            rounds=parse_rounds(plan.rounds),
            backend="inprocess" if cell.backend == "inprocess" else "ray",
            suffix=cell.suffix,
            warm_up=plan.warm_up,
            out=bench.out,
        )
        found, stages = read_replay(Path(plan.run), directory)
        rows = [{"name": found.name, "stage": stage, **cost} for stage, cost in stages.items()]
        return {"replays": [asdict(found)], "stages": rows}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Seconds of a round."""
        return f"{rows['replays'][0]['rounds']} rounds"

    def page(self, plan: ReplayPlan, tables: Mapping[str, pa.Table]) -> Page:
        """What every replay caught and cost, and the seconds of its stages."""
        from raysim.replay.summary import Replayed
        from raysim.studies.figure import stacked

        names = [field.name for field in fields(Replayed)]
        found = [Replayed(**{name: row[name] for name in names}) for row in tables["replays"].to_pylist()]
        costs: dict[str, dict[str, tuple[float, float, float]]] = {}
        for row in tables["stages"].to_pylist():
            costs.setdefault(row["stage"], {})[row["name"]] = (
                row["median_s"],
                row["first_s"],
                row["total_s"],
            )
        order = sorted(costs, key=lambda stage: (-max(total for _, _, total in costs[stage].values()), stage))
        bars = {
            one.title: {
                stage: (costs[stage][one.name][0] if one.rounds > 1 else costs[stage][one.name][1])
                for stage in order
                if one.name in costs[stage] and stage != "load"
            }
            for one in found
        }
        caption = "Seconds a round by stage"
        sections = [_caught(found), _seconds(found, order, costs), NOTES]
        return Page(sections, {"stages": (caption, stacked({"": bars}, x=caption))})


def _caught(found: Sequence[Replayed]) -> str:
    from raysim.replay.summary import comparison

    head = ["replay", "nodes", "rounds", *RATES.values(), "s a round", "first round", "MiB moved", "verdicts"]
    return markdown.table(
        [*head, "equal to", "assumes"],
        [
            [
                one.title,
                str(one.nodes),
                str(one.rounds),
                *(rate(getattr(one, name)) for name in RATES),
                column_seconds(one.median_s),
                column_seconds(one.first_s),
                f"{one.moved_bytes / 2**20:.1f}",
                one.verdicts[:8],
                comparison(one, found),
                one.assumes,
            ]
            for one in found
        ],
    )


def _seconds(
    found: Sequence[Replayed],
    order: Sequence[str],
    costs: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> str:
    def cell(stage: str, name: str) -> str:
        if name not in costs[stage]:
            return ""
        median_s, first_s, _ = costs[stage][name]
        return f"{column_seconds(median_s)} ({column_seconds(first_s)})"

    rows = [[stage, *(cell(stage, one.name) for one in found)] for stage in order]
    return markdown.table(["s a round (first)", *(one.title for one in found)], rows)
