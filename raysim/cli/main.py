"""The command line: run, resume, report, replay, list, show, bench, cluster.

Exit status: 0 done; 1 the run failed or was interrupted; 2 the request is wrong, and nothing was started. What
went wrong goes to stderr, in one line. Commands import what they need themselves: `--help` loads neither torch
nor ray.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import raysim
from raysim.cli.bench import app as bench_app
from raysim.cli.cluster import app as cluster_app
from raysim.cli.options import Address, Backend, Debug, Explain, RunPath
from raysim.cli.replay import replay
from raysim.cli.reproduce import reproduce
from raysim.config.explain import explained
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError, RunError
from raysim.exit_status import complain, exit_status
from raysim.report import terminal as results
from raysim.runs.directory import RunDirectory, claimed
from raysim.version import __version__

if TYPE_CHECKING:
    from raysim.presets import Scale
    from raysim.report.progress import Display
    from raysim.runs.result import RunResult

KINDS = {
    "attacks": "what malicious clients do: attack.name",
    "defenses": "how the server judges and combines updates: defense.name",
    "datasets": "what is learned: data.name",
    "models": "the network that is trained: model.name",
    "partitions": "how training samples are split among clients: data.partition.name",
    "updates": "where a round's updates come from: updates.name",
    "presets": "whole experiments, to run or to start from",
}

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(bench_app, name="bench")
app.add_typer(cluster_app, name="cluster")
app.command()(reproduce)

Request = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG.yaml|PRESET|KEY=VALUE",
        help="A file or a preset (default: quickstart), then keys to change in it.",
        show_default=False,
    ),
]
ScaleOption = Annotated[
    Literal["paper", "small"],
    typer.Option("--scale", help="Of a paper's preset: the full setting, or its structure in seconds."),
]


def main() -> None:
    """The entry point."""
    app(prog_name="raysim")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raysim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Simulate federated learning under attack: what a defense costs, stage by stage, and what it catches.

    \b
    raysim run                             the quickstart: half a minute, no download
    raysim run defense.name=krum rounds=5  the same with keys changed
    raysim list defenses                   names to choose from
    raysim show > mine.yaml                every key, in a file to edit and run
    raysim run --help                      more about a command
    """


@app.command()
def run(
    request: Request = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Default: date and time.")] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", file_okay=False, help="The run becomes the folder DIR/NAME.")
    ] = Path("runs"),
    backend: Backend = "ray",
    address: Address = None,
    scale: ScaleOption = "paper",
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Fetch a missing data set where torchvision can: data.download=true."
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Run one experiment.

    \b
    raysim run
    raysim run defense.name=krum defense.num_byzantine=3 rounds=5
    raysim run mine.yaml seed=7 --name seed-7
    raysim run mine.yaml --backend inprocess       one process, no Ray
    raysim run mine.yaml --address 10.0.0.1:6379   on a cluster that is up
    raysim run pdrr/table1-krum-pdrr --scale small a paper's experiment, made small

    The folder of the run gets the resolved configuration, Parquet tables of rounds, clients and stages,
    checkpoints, and report.html. Ctrl-C keeps the finished rounds; `raysim resume` goes on from there.
    """
    with exit_status(debug):
        config = _requested(request, scale)
        if download:
            config = config.with_values(data={"download": True})
        with claimed(out, name) as path:
            with _followed(path, backend, address, debug) as display:
                _introduce(display, path, config)
                result = raysim.run(
                    config, name=path.name, out=path.parent, backend=backend, address=address, observe=display
                )
            _conclude(result, path)


@app.command()
def resume(
    path: RunPath,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="rounds=N", help="How many in all, to extend the run.", show_default=False),
    ] = None,
    from_round: Annotated[
        int | None,
        typer.Option(
            "--from", metavar="N", help="The checkpoint after N rounds; 0: the start. Default: the newest."
        ),
    ] = None,
    backend: Backend = "ray",
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Continue a run from its newest checkpoint, or extend it.

    \b
    raysim resume runs/first
    raysim resume runs/first rounds=200            also a run that is finished
    raysim resume runs/first --from 40             where a newer checkpoint is damaged
    raysim resume runs/first --backend inprocess

    For runs that were interrupted or killed. The result is that of a run in one go, to the byte, whatever
    backend each part ran on. A damaged checkpoint, tables that lack rounds, and a configuration that was changed
    are refused.
    """
    directory = RunDirectory(path)
    with exit_status(debug):
        from raysim.runs.resuming import continuation

        directory.require()
        rounds = _rounds_in(more or [])
        going_on = continuation(directory, rounds, from_round)
        if going_on.sentence:
            typer.echo(f"{path}: {going_on.sentence}", err=True)
        first, wanted = going_on.first_round, going_on.config.rounds
        if first >= wanted and (path / "digest.txt").exists():
            typer.echo(f"{path} is finished: all {wanted} rounds are there; nothing is left to resume")
            return
        earlier = (
            [row for row in directory.read("rounds").to_pylist() if row["round"] < first] if first else []
        )
        with _followed(path, backend, address, debug) as display:
            _introduce(display, path, going_on.config)
            display.standing.earlier = earlier
            result = raysim.resume(
                path,
                rounds=rounds,
                from_round=from_round,
                backend=backend,
                address=address,
                observe=display,
            )
        _conclude(result, path)


def _rounds_in(words: list[str]) -> int | None:
    """The N of `rounds=N`, the one key that may change when a run goes on."""
    rounds = None
    for word in words:
        key, _, value = word.partition("=")
        if key != "rounds":
            raise ConfigError(
                key, "cannot change when a run goes on: only rounds may grow", value, "rounds=N"
            )
        if not value.isdecimal() or len(value) > 9:
            raise ConfigError("rounds", "must be a whole number", value)
        rounds = int(value)
    return rounds


@app.command()
def report(path: RunPath, debug: Debug = False) -> None:
    """Write the report.html of a run again.

    \b
    raysim report runs/first

    Also for a run that was killed: what it left in pieces is first put together into the Parquet tables.
    """
    from raysim.report.page import render

    directory = RunDirectory(path)
    with exit_status(debug):
        directory.require()
        directory.finish()
        page = render(path)
        rounds = load_config(path / "config.yaml").rounds
        results.console().print(f"{page}: {directory.finished_rounds()} of {rounds} rounds", soft_wrap=True)


@app.command()
def plan(request: Request = None, scale: ScaleOption = "paper", debug: Debug = False) -> None:
    """Estimate what a run needs on this machine, and say what will not fit. Starts nothing.

    \b
    raysim plan
    raysim plan mine.yaml population.clients=1000 population.cohort=200
    """
    with exit_status(debug):
        import psutil

        from raysim.composition.compose import compose
        from raysim.composition.estimate import lines, local_capacity, make_plan

        capacity = local_capacity()
        experiment = compose(_requested(request, scale), capacity)
        estimate = make_plan(experiment, capacity, psutil.virtual_memory().total)
        table = results.grid(_subject(experiment.config), "estimate")
        for what, much in lines(experiment.config, estimate):
            table.add_row(what, much)
        console = results.console()
        console.print(table)
        for warning in estimate.warnings:
            console.print(f"will not fit: {warning}", soft_wrap=True, markup=False)


app.command()(replay)


@app.command(name="list")
def list_names(
    kind: Annotated[
        str | None, typer.Argument(metavar="|".join(KINDS), help="What to list.", show_default=False)
    ] = None,
) -> None:
    """List what a configuration can name, with one line on each; of attacks and defenses also the paper.

    \b
    raysim list defenses
    raysim list presets
    """
    with exit_status():
        if kind is None:
            rows = [[f"raysim list {name}", text] for name, text in KINDS.items()]
        else:
            from raysim.composition.registry import catalogue, papers

            cited = papers(kind)
            rows = [
                [name, text, cited[name]] if cited else [name, text] for name, text in catalogue(kind).items()
            ]
        table = results.grid()
        for row in rows:
            table.add_row(*row)
        results.console().print(table)


@app.command()
def show(request: Request = None, scale: ScaleOption = "paper", explain: Explain = False) -> None:
    """Print a configuration with every key written out.

    \b
    raysim show
    raysim show quickstart rounds=50 > mine.yaml
    raysim show flare/table2-fmnist-flare --scale small
    raysim show --explain
    """
    with exit_status():
        if explain and request:
            raise ConfigError("--explain", "must stand alone: it is about all keys", " ".join(request))
        if explain:
            typer.echo("\n".join(map(str, explained())))
            return
        from raysim.composition.methods import written_out

        typer.echo(written_out(_requested(request, scale)).to_yaml(), nl=False)


def _requested(request: list[str] | None, scale: Scale) -> ExperimentConfig:
    """The configuration that positional arguments ask for: the first is a file or preset iff it has no "="."""
    words = request or []
    if words and "=" not in words[0]:
        return load_config(words[0], words[1:], scale)
    return load_config(None, words, scale)


@contextmanager
def _followed(path: Path, backend: str, address: str | None, debug: bool) -> Iterator[Display]:
    """The display of a run while it goes on; when the run ends early, say what is kept and how to go on."""
    from raysim.report.progress import Display

    try:
        with Display(results.console()) as display:
            yield display
        return
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
    except (RunError, OSError) as error:
        complain(error, debug)
    if (path / "config.yaml").exists():
        from raysim.runs.directory import RunDirectory

        kept, wanted = RunDirectory(path).finished_rounds(), load_config(path / "config.yaml").rounds
        again = ["raysim", "resume", str(path)]
        again += ["--backend", backend] if backend != "ray" else []
        again += ["--address", address] if address else []
        typer.echo(f"{kept} of {wanted} rounds are kept in {path}; to go on: {shlex.join(again)}", err=True)
    raise typer.Exit(1)


def _introduce(display: Display, path: Path, config: ExperimentConfig) -> None:
    """Tell the display what it is about to follow."""
    display.title = f"{path}: {_subject(config)}"
    display.standing.cohort = config.population.cohort_size


def _subject(config: ExperimentConfig) -> str:
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


def _conclude(result: RunResult, path: Path) -> None:
    """Print the results of a finished run and write its report; a report that fails leaves the run as it is."""
    from raysim.report.finished_run import read_columns
    from raysim.report.remarks import of_run

    console = results.console()
    rounds, spans = read_columns(result.path, "rounds"), read_columns(result.path, "spans")
    count = rounds["round"].size
    console.print(f"{path}: {_subject(result.config)}, {count} rounds", style="bold", soft_wrap=True)
    console.print()
    console.print(results.utilities(rounds))
    console.print()
    console.print(results.detection(rounds))
    console.print()
    console.print(results.headline(spans), style="bold")
    console.print(results.costs(spans))
    console.print()
    for remark in of_run(rounds):
        console.print(remark, soft_wrap=True)
    console.print(f"tables  {path}/{{rounds,clients,spans}}.parquet", soft_wrap=True)
    try:
        from raysim.report.page import render

        render(result.path)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        typer.echo(f"no report: {problem}; the run is whole, so try: raysim report {path}", err=True)
    else:
        console.print(f"report  {path / 'report.html'}", soft_wrap=True)
