"""`raysim bench detection`: what every defense catches, one small run in one process for every cell of a table.

A cell is one data set, attack, defense and seed. Its numbers are kept as a file of their own, beside the configuration
and the code that they came from, so that a table that was interrupted goes on where it stopped, and one whose
settings, defaults or code changed is measured again.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysim.composition.methods import written_out
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RunError, unknown_name
from raysim.metrics import Detection, mean_detection
from raysim.report.finished_run import Columns, read_columns
from raysim.report.stage_costs import owner_cost
from raysim.runs.directory import environment, write_atomically

CLIENTS, MALICIOUS = 24, 3

NO_ATTACK = "none"
"""The cell that says what FedAvg reaches when nobody attacks."""

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
"""Other options that are not defaults: maps of 4 x 4 pixels need a hidden layer narrower than the map to tell
anything, and DeepSight's 3 x 20,000 noise images a client cost more than all else together."""


@dataclass(frozen=True)
class DetectionCell:
    """One run of the table."""

    data: str
    attack: str
    defense: str
    seed: int

    @property
    def name(self) -> str:
        """What its file is called."""
        return f"{self.data}-{self.attack}-{self.defense}-seed-{self.seed}"


@dataclass(frozen=True)
class CellResult:
    """What a cell came to; NaN where a rate is undefined. problem: why there are no numbers, else empty."""

    recall: float = float("nan")
    fpr: float = float("nan")
    accuracy: float = float("nan")
    detection_s: float = float("nan")
    """The defense's seconds a round, without the first one (`raysim.report.stage_costs`)."""
    first_s: float = float("nan")
    """Those of the first round, what it does before that included."""
    problem: str = ""


@dataclass(frozen=True)
class DetectionPlan:
    """The table that is wanted."""

    data: tuple[str, ...] = tuple(SETTINGS)
    attacks: tuple[str, ...] = ("noise", "sign_flip")
    defenses: tuple[str, ...] = ()
    """Empty: all that are registered."""
    seeds: tuple[int, ...] = (0,)
    rounds: int | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        from attacks.table import ATTACKS
        from defenses.table import DEFENSES

        for key, names, known in (
            ("data", self.data, SETTINGS),
            ("attack", self.attacks, ATTACKS),
            ("defense", self.defenses, DEFENSES),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(key, name, known)
        if self.rounds is not None and self.rounds < 1:
            raise ConfigError("rounds", "must be at least 1", self.rounds, 1)
        if not self.defenses:
            object.__setattr__(self, "defenses", tuple(DEFENSES))

    def cells(self) -> Iterator[DetectionCell]:
        """Every run, data set by data set; FedAvg without an attack first."""
        for data in self.data:
            for seed in self.seeds:
                yield DetectionCell(data, NO_ATTACK, "fedavg", seed)
            for attack in self.attacks:
                for defense in self.defenses:
                    for seed in self.seeds:
                        yield DetectionCell(data, attack, defense, seed)

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
            "defense": {"name": cell.defense, **defense_options(cell.defense)},
            "evaluation": {"every": rounds},
            "checkpoint": {"every": rounds},
            "record": {"heat_maps": False},
        }
        return ExperimentConfig.from_mapping(values)


def defense_options(name: str) -> dict[str, Any]:
    """What the table sets in a defense: the true number of attackers, and OPTIONS."""
    from defenses.table import DEFENSES

    fields = {field.name for field in dataclasses.fields(DEFENSES[name])}
    return {**{key: MALICIOUS for key in TRUE_COUNTS if key in fields}, **OPTIONS.get(name, {})}


def measure_all(
    plan: DetectionPlan, folder: Path, workers: int, tell: Callable[[DetectionCell, int, int], None]
) -> dict[DetectionCell, CellResult]:
    """Run what is not in `folder` yet, `workers` cells at a time; all results. tell(cell, done, total) after each."""
    every, code = list(plan.cells()), code_version()
    folder.mkdir(parents=True, exist_ok=True)
    waiting = [cell for cell in every if read_result(plan, cell, folder, code) is None]
    done = len(every) - len(waiting)
    if workers == 1:
        for cell in waiting:
            run_cell(plan, cell, folder, code)
            done += 1
            tell(cell, done, len(every))
    elif waiting:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(waiting)), mp_context=spawn) as pool:
            running = {pool.submit(run_cell, plan, cell, folder, code): cell for cell in waiting}
            try:
                for future in as_completed(running):
                    future.result()
                    done += 1
                    tell(running[future], done, len(every))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    results = {cell: read_result(plan, cell, folder, code) for cell in every}
    return {cell: result for cell, result in results.items() if result is not None}


def run_cell(plan: DetectionPlan, cell: DetectionCell, folder: Path, code: Mapping[str, Any]) -> None:
    """Run one cell and keep its numbers, as those of this code; a setting that the defense refuses, or fails in, is kept as its problem."""
    import raysim

    config = plan.config(cell)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            run = raysim.run(config, name=cell.name, out=temporary, backend="inprocess")
            result = summarised(run.rounds, read_columns(run.path, "spans"))
        except (ConfigError, RunError) as error:
            result = CellResult(problem=f"{type(error).__name__}: {error}")
    content = {**origin(config, code), "result": dataclasses.asdict(result)}
    write_atomically(folder / f"{cell.name}.json", json.dumps(content, indent=1).encode())


def read_result(
    plan: DetectionPlan, cell: DetectionCell, folder: Path, code: Mapping[str, Any]
) -> CellResult | None:
    """What an earlier run kept of this cell; None where there is nothing, or it came from other settings or code."""
    path = folder / f"{cell.name}.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    wanted = json.loads(json.dumps(origin(plan.config(cell), code)))
    if any(content.get(key) != value for key, value in wanted.items()):
        return None
    return CellResult(**content["result"])


def origin(config: ExperimentConfig, code: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell's numbers depend on: its settings with all defaults, and the code."""
    return {"config": written_out(config).to_mapping(), **code}


def code_version() -> dict[str, Any]:
    """The commit, and versions of libraries. Asks git: once for a table, not for every cell."""
    found = environment()
    return {key: found[key] for key in ("commit", "versions")}


def summarised(rounds: Sequence[Mapping[str, Any]], spans: Columns) -> CellResult:
    """A run's tables as the numbers of a cell: means over rounds, and the accuracy of the last one."""
    names = [field.name for field in dataclasses.fields(Detection)]
    rates, _ = mean_detection([Detection(*(row[name] for name in names)) for row in rounds])
    cost = owner_cost(spans, "defense")
    return CellResult(rates.recall, rates.fpr, rounds[-1]["main_accuracy"], cost.median_s, cost.first_s)
