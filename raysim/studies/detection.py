"""What every defense catches: one small run in one process for every data set, attack, defense and seed."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from raysim.config.method_text import parse_method
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RunError, unknown_name
from raysim.formats import rate
from raysim.options import PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.markdown import table as markdown_table
from raysim.studies.options import Methods, Seeds, Words
from raysim.studies.store import SPANS
from raysim.studies.study import Bench, Cell, InProcesses, Page, Study, columns
from raysim.studies.table import Groups, gathered, ordered

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

    from raysim.report.finished_run import Columns

CLIENTS, MALICIOUS = 24, 3

NO_ATTACK = "none"
"""The cells that say what FedAvg reaches when nobody attacks."""

SETTINGS: Mapping[str, dict[str, Any]] = {
    "digits": {
        "rounds": 20,
        "data": {"name": "digits"},
        "model": "digits_cnn",
        "training": {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.05, "momentum": 0.9}},
    },
    "cifar10": {
        "rounds": 6,
        "data": {"name": "cifar10", "limit": 2400},
        "model": "flare_cifar",
        "training": {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.05, "momentum": 0.9}},
    },
}
"""Data set -> the run. CIFAR-10 is small on purpose: it shows what is caught, not how well a network can learn."""

TRUE_COUNTS = ("num_byzantine", "trim")
"""Options that state how many clients are malicious: set to the true number in every defense that has them."""

OPTIONS: Mapping[str, dict[str, Any]] = {
    "gradcam_ae": {"hidden": 4},
    "layercam_ae": {"hidden": 4},
    "deepsight": {"samples": 100, "seeds": 1},
}
"""Other options that are not defaults: scaled maps of 4 x 4 pixels need a hidden layer narrower than the map to
tell anything, and DeepSight's 3 x 20,000 noise images a client cost more than all else together."""

SHOWN = {
    "recall": "recall",
    "fpr": "FPR",
    "accuracy": "accuracy",
    "detection_s": "s/round",
    "first_s": "first",
}
"""Column of the table -> its heading on the page."""


class DetectionPlan(InProcesses):
    """The table that is wanted."""

    grid: ClassVar = frozenset({"data", "attack", "defense", "seeds", "workers"})
    data: Words = Field(tuple(SETTINGS), description="data sets, with commas between")
    attack: Words = Field(("noise", "sign_flip"), description="attacks, with commas between")
    defense: Methods = Field((), description="defenses, with commas between; default: all of them")
    rounds: PositiveInt | None = Field(None, description="default: 20 for digits, 6 for cifar10")
    seeds: Seeds = Field((0,), description="with commas between")
    root: str | None = Field(None, description="folder of the data sets; default: $RAYSIM_DATA")

    @model_validator(mode="after")
    def _known(self) -> Self:
        from attacks.table import ATTACKS
        from defenses.table import DEFENSES

        named = [str(parse_method("defense", label)["name"]) for label in self.defense]
        known = (
            ("data", self.data, SETTINGS),
            ("attack", self.attack, ATTACKS),
            ("defense", named, DEFENSES),
        )
        for key, names, table in known:
            for name in names:
                if name not in table:
                    raise unknown_name(key, name, table)
        return self

    @property
    def defenses(self) -> Sequence[str]:
        """Those that are measured."""
        from defenses.table import DEFENSES

        return self.defense or tuple(DEFENSES)

    def config(self, cell: DetectionCell) -> ExperimentConfig:
        """The cell's experiment."""
        setting = SETTINGS[cell.data]
        rounds = self.rounds or setting["rounds"]
        values = {
            **setting,
            "data": {**setting["data"], "root": self.root},
            "seed": cell.seed,
            "rounds": rounds,
            "population": {"clients": CLIENTS, "malicious": MALICIOUS},
            "attack": cell.attack,
            "defense": {**defense_options(cell.defense), **parse_method("defense", cell.defense)},
            "evaluation": {"every": rounds},
            "checkpoint": {"every": rounds},
            "record": {"heat_maps": False},
        }
        return ExperimentConfig.from_mapping(values)


@dataclass(frozen=True)
class DetectionCell(Cell):
    """One run of the table."""

    data: str
    attack: str
    defense: str
    seed: int


class DetectionStudy(Study[DetectionPlan, DetectionCell]):
    """What every defense catches: recall, false positives, accuracy and seconds, a small run each.

    \b
    raysim bench detection --page detection.md
    raysim bench detection --data digits --defense krum,flame,pdrr,rule=median --seeds 0,1,2
    """

    name = "detection"
    title = "What the defenses catch"
    plan = DetectionPlan
    tables: ClassVar = {
        "detection": TableSchema(
            "detection",
            columns(
                data=("string", "data set"),
                attack=("string", "none: FedAvg, when nobody attacks"),
                defense=("string", "with the options it was given"),
                seed=("int64", "of the run"),
                recall=("float64", "mean over the rounds that define it"),
                fpr=("float64", "mean over the rounds that define it"),
                accuracy=("float64", "main accuracy after the last round"),
                detection_s=("float64", "the defense's seconds a round, median without the first one"),
                first_s=("float64", "those of the first round, what it does before that included"),
                problem=("string", "why there are no numbers; empty if there are"),
            ),
        ),
        "spans": TableSchema("spans", SPANS),
    }

    def cells(self, plan: DetectionPlan) -> list[DetectionCell]:
        """Data set by data set; FedAvg without an attack first."""
        tried = [(NO_ATTACK, "fedavg"), *itertools.product(plan.attack, plan.defenses)]
        return [
            DetectionCell(data, attack, defense, seed)
            for data in plan.data
            for attack, defense in tried
            for seed in plan.seeds
        ]

    def measure(self, plan: DetectionPlan, cell: DetectionCell, bench: Bench) -> Mapping[str, Rows]:
        """Run one cell; a setting that the defense refuses, or fails in, is kept as its problem."""
        import raysim
        from raysim.report.finished_run import read_columns
        from raysim.runs.directory import RunDirectory

        with tempfile.TemporaryDirectory() as folder:
            try:
                run = raysim.run(plan.config(cell), name="cell", out=folder, backend="inprocess")
                spans = RunDirectory(run.path).read("spans").to_pylist()
                row = {**measures(run.rounds, read_columns(run.path, "spans")), "problem": ""}
            except (ConfigError, RunError) as error:
                problem = f"{type(error).__name__}: {error}"
                spans, row = [], {**dict.fromkeys(SHOWN, float("nan")), "problem": problem}
        return {"detection": [row], "spans": [{**span, "cell": cell.name} for span in spans]}

    def told(self, rows: Mapping[str, Rows]) -> str:
        """Recall and accuracy."""
        (row,) = rows["detection"]
        return row["problem"] or f"recall {rate(row['recall'])}, accuracy {rate(row['accuracy'])}"

    def page(self, plan: DetectionPlan, tables: Mapping[str, pa.Table]) -> Page:
        """A table for each data set, one row a defense."""
        table = tables["detection"]
        found = {key: gathered(table, key, "data", "attack", "defense") for key in SHOWN}
        problems = [row for row in table.to_pylist() if row["problem"]]
        failed = {(row["data"], row["attack"], row["defense"]) for row in problems}
        sections = [_notes(ordered(table, "defense"))]
        sections += [_table(plan, data, table, found, failed) for data in ordered(table, "data")]
        if problems:
            lines = [
                f"- {row['data']}, {row['attack']}, {row['defense']}, seed {row['seed']}: {row['problem']}"
                for row in problems
            ]
            sections.append("\n".join(["Cells without numbers:", "", *lines]))
        return Page(
            sections, {"rates": ("Recall and false-positive rate of every defense", _figure(table, found))}
        )


def defense_options(label: str) -> dict[str, Any]:
    """What the table sets in a defense: the true number of attackers, and OPTIONS."""
    from defenses.table import DEFENSES

    name = str(parse_method("defense", label)["name"])
    fields = {field.name for field in dataclasses.fields(DEFENSES[name])}
    return {**{key: MALICIOUS for key in TRUE_COUNTS if key in fields}, **OPTIONS.get(name, {})}


def measures(rounds: Sequence[Mapping[str, Any]], spans: Columns) -> dict[str, float]:
    """A run's tables as the numbers of a row: means over rounds, and the accuracy of the last one."""
    from raysim.metrics import Detection, mean_detection
    from raysim.report.stage_costs import owner_cost

    names = [field.name for field in dataclasses.fields(Detection)]
    rates, _ = mean_detection([Detection(*(row[name] for name in names)) for row in rounds])
    cost = owner_cost(spans, "defense")
    values = (rates.recall, rates.fpr, rounds[-1]["main_accuracy"], cost.median_s, cost.first_s)
    return dict(zip(SHOWN, values, strict=True))


def _notes(defenses: Sequence[str]) -> str:
    names = [label.partition(",")[0] for label in defenses]
    changed = "; ".join(
        f"{name}: {', '.join(f'{key}={value}' for key, value in options.items())}"
        for name, options in OPTIONS.items()
        if name in names
    )
    counted = [label for label in defenses if set(TRUE_COUNTS) & set(defense_options(label))]
    notes = [
        f"{CLIENTS} clients, {MALICIOUS} of them malicious. Recall and FPR: mean over rounds (- : the rule flags"
        " nobody by design); accuracy: after the last round; s/round: the defense's wall-clock seconds, median over the"
        " rounds after the first; first: those of the first round, what it does before that included; all of them means"
        " over the seeds, rates ± half of the 95 % confidence interval if there are several. Where a rule that flags nobody"
        " has rates, updates that were not finite were refused before it saw them; they are the rates of those rounds.",
    ]
    if counted:
        told = " or ".join(TRUE_COUNTS)
        notes.append(f"These rules are told the true number, {MALICIOUS} ({told}): {', '.join(counted)}.")
    if changed:
        notes.append(f"Other options that are not the defaults: {changed}.")
    return "\n\n".join(notes)


def _table(
    plan: DetectionPlan,
    data: str,
    table: pa.Table,
    found: Mapping[str, Groups],
    failed: set[tuple[str, str, str]],
) -> str:
    from raysim.composition.registry import defense_title

    setting = SETTINGS[data]
    training = setting["training"]
    limit = f" ({setting['data']['limit']:,} training samples)" if "limit" in setting["data"] else ""
    small = " Cut short on purpose: it shows what is caught, not what is learnt." if limit else ""
    attacks, defenses = _measured(table)
    rows = []
    for defense in defenses:
        cells = [defense_title(defense)]
        for attack in attacks:
            at = (data, attack, defense)
            if at in failed or at not in found["recall"]:
                cells += ["failed" if at in failed else ""] * len(SHOWN)
            else:
                cells += [found[key][at].mean_text(interval=not key.endswith("_s")) for key in SHOWN]
        rows.append(cells)
    head = ["defense", *(f"{attack}: {heading}" for attack in attacks for heading in SHOWN.values())]
    clean = rate(found["accuracy"][data, NO_ATTACK, "fedavg"].mean)
    return "\n".join(
        [
            f"## {data}{limit}, {setting['model']}, {plan.rounds or setting['rounds']} rounds",
            "",
            f"{training['epochs']} local epochs of batches of {training['batch_size']}."
            f" FedAvg without an attack reaches {clean}.{small}",
            "",
            markdown_table(head, rows),
        ]
    )


def _measured(table: pa.Table) -> tuple[list[str], list[str]]:
    """Attacks, and defenses that were measured against them."""
    pairs = dict.fromkeys(zip(table["attack"].to_pylist(), table["defense"].to_pylist(), strict=True))
    attacked = [(attack, defense) for attack, defense in pairs if attack != NO_ATTACK]
    return [list(dict.fromkeys(names)) for names in zip(*attacked, strict=True)]  # type: ignore[return-value]


def _figure(table: pa.Table, found: Mapping[str, Groups]) -> Figure:
    """A panel for each data set and attack: defenses down, recall and false-positive rate across."""
    from raysim.composition.registry import defense_title
    from raysim.report.drawing import GRID, INK
    from raysim.studies.figure import panels, style

    attacks, defenses = _measured(table)
    places = [(data, attack) for data in ordered(table, "data") for attack in attacks]
    figure, drawn = panels(len(places), height=1.3 + 0.19 * len(defenses))
    for axes, (data, attack) in zip(drawn, places, strict=True):
        for place, (key, label) in enumerate((("recall", "recall"), ("fpr", "false-positive rate"))):
            known = {
                at: values.mean
                for at, name in enumerate(defenses)
                if (values := found[key].get((data, attack, name))) is not None
            }
            axes.plot(list(known.values()), list(known), label=label, **style(place, lw=0))
        axes.set_yticks(
            range(len(defenses)), [defense_title(name) for name in defenses] if axes is drawn[0] else []
        )
        axes.set(xlim=(-0.05, 1.05), ylim=(len(defenses) - 0.5, -0.5))
        axes.xaxis.grid(color=GRID, lw=0.8)
        axes.set_title(f"{data}, {attack}", loc="left", fontsize=10, color=INK)
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure
