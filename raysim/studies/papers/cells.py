"""Run the cells of a paper's tables, a run a seed, and collect what they measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from raysim.config.load import load_config
from raysim.errors import DataError, RunError, unknown_name
from raysim.presets import PAPERS, Preset, Scale, generated
from raysim.studies.kept_runs import finish
from raysim.studies.papers.measures import measure


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

    A run that lacks data, or fails, is told in `problem`; the other seeds go on. ConfigError if a folder
    holds a run of another configuration.
    """
    values: dict[str, list[float]] = {key: [] for key in preset.metrics}
    problems: list[str] = []
    for seed in seeds:
        path = out / scale / preset.name / f"seed-{seed}"
        config = load_config(preset.name, [*overrides, f"seed={seed}"], scale=scale)
        try:
            finish(config, path, backend, address, partial(started, f"{preset.name}, seed {seed}"))
        except (DataError, RunError) as error:
            problems.append(f"seed {seed}: {error}")
            continue
        for key, value in measure(path, preset, preset.metrics).items():
            values[key].append(value)
    return PaperCell(preset, values, "; ".join(problems))
