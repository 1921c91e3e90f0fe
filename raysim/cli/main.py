"""The command line: run, resume, report, replay, list, show, data, bench, cluster.

Exit status: 0 done; 1 the run failed; 2 the request is wrong, and nothing was started; 130 or 143 Ctrl-C or SIGTERM
ended it. What went wrong goes to stderr, in one line. Commands import what they need themselves: `--help` loads
neither torch nor ray.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import raysim
from raysim.cli.bench import app as bench_app
from raysim.cli.cluster import app as cluster_app
from raysim.cli.compare import compare
from raysim.cli.data import app as data_app
from raysim.cli.following import conclude, followed, introduce, subject
from raysim.cli.listing import list_names
from raysim.cli.options import Address, Backend, Debug, Explain, Request, RunPath, Tracker
from raysim.cli.study_command import command_of
from raysim.config.explain import explained
from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.exit_status import exit_status
from raysim.report import terminal as results
from raysim.report.trackers import both, require, tracked
from raysim.runs.directory import RunDirectory
from raysim.runs.naming import claimed
from raysim.studies.papers.study import Reproduce
from raysim.studies.replays import Replay
from raysim.studies.sweep import Sweep
from raysim.version import __version__

if TYPE_CHECKING:
    from raysim.presets import Scale

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

app.add_typer(bench_app, name="bench")
app.add_typer(cluster_app, name="cluster")
app.add_typer(data_app, name="data")
app.command()(compare)
app.command("sweep")(command_of(Sweep(), "runs/sweep"))
app.command("reproduce")(command_of(Reproduce(), "runs/reproduce-{paper}-{scale}"))

ScaleOption = Annotated[
    Literal["paper", "small"],
    typer.Option("--scale", help="Of a paper's preset: the full setting, or its structure in seconds."),
]
OverNodes = Annotated[
    bool,
    typer.Option(
        "--over-nodes", help="Measure the defense, and foretell its seconds on 1 to 64 nodes of 16 cores."
    ),
]


Elsewhere = Annotated[
    str | None,
    typer.Option(
        "--machines",
        metavar="KEY=VALUE,...",
        help="Plan for these: nodes, and of each cpus, memory_gib, gpus, gpu_memory_gib. Default: this machine.",
        show_default=False,
    ),
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
    raysim run defense=median rounds=5     the same with keys changed
    raysim list defenses                   names to choose from
    raysim list defense flame              options of one, what it needs, how to use it
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
    tracker: Tracker = None,
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

    A name may be an import path, package.module:Thing, and resources.runtime_env may bring packages. Their code is run
    with your rights, so give none that you do not trust; nothing else in a configuration runs code.

    The folder of the run gets the resolved configuration, Parquet tables of rounds, clients and stages,
    checkpoints, and report.html. Ctrl-C or SIGTERM ends a run and keeps the finished rounds, with a checkpoint of the
    last one and the report; `raysim resume` goes on from there. A second Ctrl-C does not wait for that.
    """
    with exit_status(debug):
        config = _requested(request, scale)
        if download:
            config = config.with_values(data={"download": True})
        require(tracker)
        with claimed(out, name) as path:
            with (
                followed(path, backend, address, debug) as display,
                tracked(tracker, path, config) as log,
            ):
                introduce(display, path, config)
                result = raysim.run(
                    config,
                    name=path.name,
                    out=path.parent,
                    backend=backend,
                    address=address,
                    observe=both(display, log),
                )
            conclude(result, path)


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
    tracker: Tracker = None,
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
        require(tracker)
        with (
            followed(path, backend, address, debug) as display,
            tracked(tracker, path, going_on.config) as log,
        ):
            introduce(display, path, going_on.config)
            display.standing.earlier = earlier
            result = raysim.resume(
                path,
                rounds=rounds,
                from_round=from_round,
                backend=backend,
                address=address,
                observe=both(display, log),
            )
        conclude(result, path)


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
def plan(
    request: Request = None,
    scale: ScaleOption = "paper",
    machines: Elsewhere = None,
    over_nodes: OverNodes = False,
    debug: Debug = False,
) -> None:
    """Estimate what a run needs, and say what will not fit. Starts nothing.

    \b
    raysim plan
    raysim plan mine.yaml population.clients=1000 population.cohort=200
    raysim plan layercam_ae/table2-resnet50-svhn-layercam_ae
    raysim plan layercam_ae/table2-resnet50-svhn-layercam_ae --over-nodes
    raysim plan mine.yaml resources.client_gpus=0.1 --machines nodes=4,cpus=16,gpus=2,gpu_memory_gib=24

    If the data set is not here, random images of its size stand in for it, and everybody is honest. Training is timed on
    few batches, here. Shares of a GPU whose memory does not hold a client actor are refused.
    """
    with exit_status(debug):
        import psutil

        from raysim.composition.estimate import lines, local_capacity, make_plan
        from raysim.composition.machines import machines_of
        from raysim.composition.outlook import outlook

        capacity, memory = local_capacity(), psutil.virtual_memory().total
        if machines is not None:
            there = machines_of("--machines", machines)
            capacity, memory = there.capacity, there.memory_bytes
        config = _requested(request, scale)
        seen = outlook(config, capacity)
        experiment = seen.experiment
        estimate = make_plan(experiment, capacity, memory, lighter=seen.lighter)
        table = results.grid(subject(config), "estimate")
        for what, much in lines(experiment.config, estimate):
            table.add_row(what, much)
        console = results.console()
        console.print(table)
        for remark in seen.remarks:
            console.print(remark, soft_wrap=True, markup=False)
        for warning in estimate.warnings:
            console.print(f"will not fit: {warning}", soft_wrap=True, markup=False)
        if over_nodes:
            from raysim.composition import detection_plan

            lines_of, said = detection_plan.rows(experiment)
            if lines_of:
                rates = [f"{rate / 1e9:g} Gbit/s" for rate in detection_plan.RATES]
                table = results.grid(f"nodes of {detection_plan.CORES} cores", *rates)
                for line in lines_of:
                    table.add_row(*line)
                console.print(table)
            console.print(said, soft_wrap=True, markup=False)


app.command("replay")(command_of(Replay(), "{run}/replays"))


app.command(name="list")(list_names)


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
