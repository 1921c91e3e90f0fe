"""Runs that a study keeps: started, gone on with, or left as they are, and what is measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from raysim.composition.methods import written_out
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.metrics import summarise
from raysim.report.finished_run import read_columns
from raysim.report.stage_costs import KEEPING, owner_cost, round_cost
from raysim.report.trackers import TrackerName, tracked
from raysim.runs.directory import RunDirectory
from raysim.studies.table import Values

PLACE_ONLY = ("resources", "record", "evaluation", "checkpoint")
"""Groups of keys that two runs of the same experiment may differ in."""

MEASURES: Mapping[str, str] = {
    "main_accuracy": "accuracy",
    "attack_success_rate": "ASR",
    "recall": "recall",
    "precision": "precision",
    "fpr": "FPR",
    "auc_score": "AUC",
    "round_s": "s/round",
    "defense_s": "defense s/round",
}
"""What is measured of a run -> its heading. Accuracy and attack success: in the last round that measured them; rates: mean
over the rounds that define them; seconds: medians without the first round (`raysim.report.stage_costs`)."""


def finish(
    config: ExperimentConfig,
    path: Path,
    backend: Literal["ray", "inprocess"],
    address: str | None,
    tracker: TrackerName | None = None,
) -> None:
    """Start the run, go on with it, or leave it as it is if it is finished.

    ConfigError if the folder holds a run of another configuration.
    """
    import raysim

    if not (path / "config.yaml").exists():
        with tracked(tracker, path, config) as log:
            raysim.run(config, name=path.name, out=path.parent, backend=backend, address=address, observe=log)
        return
    stored = load_config(path / "config.yaml")
    if not same(stored, written_out(config)):
        raise ConfigError("out", "must be a folder for this configuration; it holds another's run", str(path))
    if RunDirectory(path).finished_rounds() < config.rounds:
        with tracked(tracker, path, stored) as log:
            raysim.resume(path, backend=backend, address=address, observe=log)


def same(stored: ExperimentConfig, wanted: ExperimentConfig) -> bool:
    """Whether a run's configuration is the one wanted, with what that left open filled in."""
    values = stored.to_mapping()
    return all(
        group in PLACE_ONLY or _fills_in(values[group], keys) for group, keys in wanted.to_mapping().items()
    )


def measures_of(path: Path) -> dict[str, float]:
    """The MEASURES of a finished run or replay; NaN if it does not define one."""
    rounds, spans = read_columns(path, "rounds"), read_columns(path, "spans")
    order = np.argsort(rounds["round"], kind="stable")
    found = {name: summarise(rounds[name][order]).final for name in ("main_accuracy", "attack_success_rate")}
    found |= {name: Values.of(rounds[name]).mean for name in ("recall", "precision", "fpr", "auc_score")}
    seconds = (round_cost(spans, leave_out=KEEPING).median_s, owner_cost(spans, "defense").median_s)
    return {**found, "round_s": seconds[0], "defense_s": seconds[1]}


def _fills_in(stored: object, wanted: object) -> bool:
    if wanted is None or wanted == "auto":
        return True
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        return wanted.keys() == stored.keys() and all(_fills_in(stored[key], wanted[key]) for key in wanted)
    return bool(stored == wanted)
