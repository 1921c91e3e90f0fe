"""A run followed on the terminal: what is shown meanwhile, what is said when it ends early, its results."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import RunError
from raysim.exit_status import complain
from raysim.interruption import status_of, terminable
from raysim.report import terminal as results
from raysim.runs.directory import RunDirectory

if TYPE_CHECKING:
    from raysim.report.progress import Display
    from raysim.runs.result import RunResult


@contextmanager
def followed(path: Path, backend: str, address: str | None, debug: bool) -> Iterator[Display]:
    """The display of a run while it goes on; when the run ends early, say what is kept and how to go on."""
    from raysim.report.progress import Display

    try:
        with terminable(), Display(results.console()) as display:
            yield display
        return
    except KeyboardInterrupt as end:
        status, why = status_of(end), "interrupted"
    except (RunError, OSError) as error:
        complain(error, debug)
        status, why = 1, ""
    kept = _kept(path, backend, address)
    if said := ": ".join(text for text in (why, kept) if text):
        typer.echo(said, err=True)
    if kept and RunDirectory(path).finished_rounds():
        _write_report(path, "finished rounds are whole")
    raise typer.Exit(status)


def _kept(path: Path, backend: str, address: str | None) -> str:
    """What of a run that ended early is kept, and how it goes on; empty if it had not begun."""
    if not (path / "config.yaml").exists():
        return ""
    kept, wanted = RunDirectory(path).finished_rounds(), load_config(path / "config.yaml").rounds
    again = ["raysim", "resume", str(path)]
    again += ["--backend", backend] if backend != "ray" else []
    again += ["--address", address] if address else []
    return f"{kept} of {wanted} rounds are kept in {path}; to go on: {shlex.join(again)}"


def introduce(display: Display, path: Path, config: ExperimentConfig) -> None:
    """Tell the display what it is about to follow."""
    display.title = f"{path}: {subject(config)}"
    display.standing.cohort = config.population.cohort_size


def subject(config: ExperimentConfig) -> str:
    """What a configuration puts to the test; a defense that is shown the truth is named as what it is."""
    from raysim.composition.methods import make_defense
    from raysim.defense import Chain, title

    made = make_defense(config)
    steps = made.steps if isinstance(made, Chain) else (made,)
    defense = ", then ".join(
        title(component.name, step) for component, step in zip(config.defense, steps, strict=True)
    )
    planted = config.updates.name != "trained" and config.population.num_malicious
    attack = " and ".join(item.name for item in config.attack) or ("planted" if planted else "no attack")
    return f"{attack} against {defense}, {config.data.name}, {config.population.total} clients"


def conclude(result: RunResult, path: Path) -> None:
    """Print the results of a finished run and write its report; a report that fails leaves the run as it is."""
    from raysim.report.finished_run import read_columns
    from raysim.report.remarks import of_run
    from raysim.report.virtual_time import virtual_time

    console = results.console()
    rounds, spans = read_columns(result.path, "rounds"), read_columns(result.path, "spans")
    count = rounds["round"].size
    console.print(f"{path}: {subject(result.config)}, {count} rounds", style="bold", soft_wrap=True)
    console.print()
    console.print(results.utilities(rounds))
    console.print()
    console.print(results.detection(rounds))
    console.print()
    console.print(results.headline(spans), style="bold")
    if time := virtual_time(rounds, spans):
        console.print(time.sentence, soft_wrap=True)
    console.print(results.costs(spans))
    console.print()
    for remark in of_run(rounds):
        console.print(remark, soft_wrap=True)
    console.print(f"tables  {path}/{{rounds,clients,spans}}.parquet", soft_wrap=True)
    _write_report(path, "the run is whole")


def _write_report(path: Path, kept: str) -> None:
    """Write the report and say where it is; one that fails leaves the run as it is."""
    try:
        from raysim.report.page import render

        render(path)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        typer.echo(f"no report: {problem}; {kept}, so try: raysim report {path}", err=True)
    else:
        results.console().print(f"report  {path / 'report.html'}", soft_wrap=True)
