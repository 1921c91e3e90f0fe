"""Run the cells of a paper's tables, a run a seed, and collect what they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

import raysim
from raysim.composition.methods import written_out
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, DataError, RunError, unknown_name
from raysim.presets import PAPERS, Preset, Scale, generated
from raysim.runs.directory import RunDirectory
from raysim.studies.papers.measures import measure

PLACE_ONLY = ("resources", "record", "evaluation", "checkpoint")
"""Groups of keys that two runs of the same experiment may differ in."""


@dataclass(frozen=True)
class PaperCell:
    """A preset and its measures, key -> a value a seed. problem: why it was not, or not wholly, run."""

    preset: Preset
    measured: Mapping[str, Sequence[float]] = field(default_factory=dict)
    problem: str = ""

    def mean(self, key: str) -> float:
        """The mean over the seeds that define it, NaN without one."""
        known = self._known(key)
        return float(known.mean()) if known.size else float("nan")

    def spread(self, key: str) -> float:
        """The sample standard deviation over seeds; NaN below two."""
        known = self._known(key)
        return float(known.std(ddof=1)) if known.size > 1 else float("nan")

    def _known(self, key: str) -> np.ndarray:
        values = np.array(self.measured.get(key, ()), np.float64)
        return values[~np.isnan(values)]


def select(paper: str, table: str | None = None) -> dict[str, list[Preset]]:
    """Table -> its presets, of one table or figure, of `all`, or (None) of those with reported numbers.

    `3` is short for `table3`. ConfigError for what the paper has not.
    """
    if paper not in PAPERS:
        raise unknown_name("paper", paper, PAPERS)
    tables: dict[str, list[Preset]] = {}
    for preset in generated().values():
        if preset.source == paper:
            tables.setdefault(preset.table, []).append(preset)
    if table == "all":
        return tables
    if table is None:
        return {name: cells for name, cells in tables.items() if any(cell.reported for cell in cells)}
    wanted = f"table{table}" if table[0].isdigit() else table
    if wanted not in tables:
        raise unknown_name("table", wanted, tables)
    return {wanted: tables[wanted]}


def run_cell(
    preset: Preset,
    *,
    scale: Scale,
    seeds: Iterable[int],
    out: Path,
    backend: Literal["ray", "inprocess"] = "inprocess",
    address: str | None = None,
    overrides: Sequence[str] = (),
    started: Callable[[str], None] = lambda text: None,
) -> PaperCell:
    """Run what is not yet finished under out/scale/NAME/seed-N, and measure it.

    A run that lacks data, or fails, is told in `problem`; the other seeds go on. ConfigError where a folder
    holds a run of another configuration.
    """
    values: dict[str, list[float]] = {key: [] for key in preset.metrics}
    problems: list[str] = []
    for seed in seeds:
        path = out / scale / preset.name / f"seed-{seed}"
        config = load_config(preset.name, [*overrides, f"seed={seed}"], scale=scale)
        try:
            _finish(config, path, backend, address, partial(started, f"{preset.name}, seed {seed}"))
        except (DataError, RunError) as error:
            problems.append(f"seed {seed}: {error}")
            continue
        for key, value in measure(path, preset, preset.metrics).items():
            values[key].append(value)
    return PaperCell(preset, values, "; ".join(problems))


def _finish(
    config: ExperimentConfig,
    path: Path,
    backend: Literal["ray", "inprocess"],
    address: str | None,
    started: Callable[[], None],
) -> None:
    """Start the run, go on with it, or leave it as it is where it is finished."""
    if not (path / "config.yaml").exists():
        started()
        raysim.run(config, name=path.name, out=path.parent, backend=backend, address=address)
        return
    stored = load_config(path / "config.yaml")
    if not _same(stored, written_out(config)):
        raise ConfigError("out", "must be a folder for this configuration; it holds another's run", str(path))
    if RunDirectory(path).finished_rounds() < config.rounds:
        started()
        raysim.resume(path, backend=backend, address=address)


def _same(stored: ExperimentConfig, wanted: ExperimentConfig) -> bool:
    """Whether a run's configuration is the one wanted, with what that left open filled in."""
    values = stored.to_mapping()
    return all(
        group in PLACE_ONLY or _fills_in(values[group], keys) for group, keys in wanted.to_mapping().items()
    )


def _fills_in(stored: Any, wanted: Any) -> bool:
    if wanted is None or wanted == "auto":
        return True
    if isinstance(wanted, Mapping) and isinstance(stored, Mapping):
        return wanted.keys() == stored.keys() and all(_fills_in(stored[key], wanted[key]) for key in wanted)
    return bool(stored == wanted)
