"""`raysim compare`: runs, sweeps and replays side by side: rates, accuracy, seconds by stage, and what differs between them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raysim.errors import ConfigError, RecordError
from raysim.formats import rate, significant
from raysim.report.finished_run import FinishedRun, read_finished_run
from raysim.report.stage_costs import KEEPING, stage_costs
from raysim.report.tables import flatten
from raysim.studies import markdown
from raysim.studies.kept_runs import MEASURES, measures_of
from raysim.studies.latex import booktabs
from raysim.studies.study import About, Page, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Compared:
    """One of the runs: what it is called here, what was measured of it, seconds by stage, its configuration."""

    name: str
    run: FinishedRun
    measures: Mapping[str, float]
    stages: Mapping[str, float]
    keys: Mapping[str, str]


def runs_of(paths: Sequence[Path]) -> list[Path]:
    """The runs that these name: a run or a replay itself, all runs of a sweep, all replays of a folder of replays.

    RecordError for a folder that holds none.
    """
    found: list[Path] = []
    for path in paths:
        if (path / "config.yaml").exists():
            found.append(path)
            continue
        inside = sorted(config.parent for at in (path / "runs", path) for config in at.glob("*/config.yaml"))
        if not inside:
            raise RecordError(f"{path} holds no run, no sweep and no replays: config.yaml is missing")
        found += inside
    distinct = list({path.resolve(): path for path in found}.values())
    if len(distinct) < 2:
        raise ConfigError("RUN", "must name at least two runs, or a sweep", [str(path) for path in paths])
    return distinct


def compared(paths: Sequence[Path]) -> list[Compared]:
    """These runs, read. Each is called by the end of its path, as much of it as tells them apart."""
    return [_read(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that differ.

    >>> names_of([Path("a/x/replays/krum"), Path("a/y/replays/krum"), Path("a/x")])
    ['x/replays/krum', 'y/replays/krum', 'x']
    """
    whole = [path.resolve().parts for path in paths]

    def ends(size: int) -> list[tuple[str, ...]]:
        return [parts[-size:] for parts in whole]

    names = []
    for place in range(len(whole)):
        longest = len(whole[place])
        sizes = (size for size in range(1, longest) if ends(size).count(ends(size)[place]) == 1)
        size = next(sizes, longest)
        names.append("/".join(whole[place][-size:]))
    return names


def page_of(runs: Sequence[Compared]) -> Page:
    """Measures, what differs, seconds by stage; accuracy against the round and the stages as figures."""
    from raysim.studies.figure import stacked

    shown = [m for m in MEASURES if any(not np.isnan(run.measures[m]) for run in runs)]
    head = ["run", *(MEASURES[m] for m in shown)]
    rows = [[run.name, *(_text(run.measures[m], m) for m in shown)] for run in runs]
    stages = list(dict.fromkeys(stage for run in runs for stage in run.stages))
    times = [
        [stage, *(significant(run.stages[stage]) if stage in run.stages else "" for run in runs)]
        for stage in stages
    ]
    differing = differences(runs)
    changed = [[key, *values] for key, values in differing.items()]
    names = [run.name for run in runs]
    sections = [
        markdown.table(head, rows),
        "Accuracy and ASR: in the last round that measured them; rates: means over the rounds that define them; seconds: medians"
        " without the first round.",
        picture("stages", "Seconds a round by stage"),
        "## Where their configurations differ\n\n"
        + (markdown.table(["key", *names], changed) if changed else "Nowhere."),
        "## Seconds by stage\n\n" + markdown.table(["stage", *names], times),
    ]
    bars = {run.name: dict(run.stages) for run in runs}
    caption = "Seconds a round by stage"
    figures = {"stages": (caption, stacked({"": bars}, x=f"{caption}, medians"))}
    if any(_accuracy(run).size for run in runs):
        figures = {"accuracy": ("Main accuracy against the round", _accuracies(runs)), **figures}
    return Page(sections, figures, files={"compare.tex": booktabs(head, rows)})


def differences(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """Key -> its value in each run, of the keys that are not the same in all; "" if a run has no such key."""
    keys = dict.fromkeys(key for run in runs for key in run.keys)
    values = {key: [run.keys.get(key, "") for run in runs] for key in keys}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def _read(path: Path, name: str) -> Compared:
    run = read_finished_run(path)
    stages = {
        found.stage: found.cost.median_s if found.cost.rounds > 1 else found.cost.first_s
        for found in stage_costs(run.spans)
        if found.stage not in KEEPING
    }
    environment = {key: str(run.environment.get(key)) for key in ("commit", "processor", "cpus", "backend")}
    keys = {**dict(flatten(run.config)), **{f"({key})": value for key, value in environment.items()}}
    return Compared(name, run, measures_of(path), stages, keys)


def about_of(paths: Sequence[Path], environment: Mapping[str, Any], date: str) -> About:
    """What the page says of itself."""
    return {
        "environment": environment,
        "dates": [date],
        "plan": json.loads(json.dumps({"runs": [*map(str, paths)]})),
    }


def _text(value: float, measure: str) -> str:
    return significant(value) if measure.endswith("_s") else rate(value)


def _accuracy(run: Compared) -> np.ndarray:
    values: np.ndarray = run.run.rounds["main_accuracy"]
    known: np.ndarray = values[~np.isnan(values)]
    return known


def _accuracies(runs: Sequence[Compared]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    from raysim.studies.figure import panels, style

    figure, (axes,) = panels(1)
    for place, run in enumerate(runs):
        values = run.run.rounds["main_accuracy"]
        known = ~np.isnan(values)
        if known.any():
            axes.plot(run.run.rounds["round"][known], values[known], label=run.name, **style(place))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="round", ylabel="main accuracy", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure
