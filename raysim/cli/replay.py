"""`raysim replay`: defenses on recorded updates, side by side."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raysim.cli.options import Address, Backend, Debug, RunPath
from raysim.errors import ConfigError
from raysim.exit_status import exit_status
from raysim.report import terminal as results
from raysim.runs.directory import RunDirectory


def replay(
    path: RunPath,
    defense: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[,KEY=VALUE...]",
            help="With commas between; or YAML: '{name: krum, num_byzantine: 3}'.",
        ),
    ],
    rounds: Annotated[
        str | None, typer.Option(metavar="FIRST-LAST", help="Default: all recorded rounds.")
    ] = None,
    backend: Backend = "inprocess",
    address: Address = None,
    nodes: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="On Ray clusters of so many nodes, brought up for it."),
    ] = None,
    kind: Annotated[
        Literal["raylets", "namespaces"],
        typer.Option(help="--nodes: side by side on this machine, or hosts with links of their own (root)."),
    ] = "raylets",
    cpus: Annotated[
        int | None, typer.Option(help="--nodes: of each node. Default: an equal part of this machine's.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="--nodes, namespaces: of each link, 100mbit or 1gbit.")
    ] = None,
    warm_up: Annotated[
        bool, typer.Option("--warm-up", help="Judge the first round once before: no start-up is timed.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run defenses on the updates that a run recorded: the same rows for each.

    \b
    raysim run record.updates=true --name first
    raysim replay runs/first --defense median,flame --defense '{name: krum, num_byzantine: 3}'
    raysim replay runs/first --defense krum,num_byzantine=3 --nodes 1,2 --warm-up
    raysim replay runs/first --defense flame --nodes 2,4 --kind namespaces --bandwidth 100mbit

    A rule that is not told how many are malicious (num_byzantine) assumes the most that it tolerates; the table says so.
    Verdicts and spans go to RUN/replays/NAME (NAME@2nodes), in tables like those of a run; all replays stand side
    by side in RUN/replays/summary.md.
    """
    from raysim.replay.on_nodes import parse_nodes, replay_on_nodes
    from raysim.replay.replay import parse_defenses, parse_rounds
    from raysim.replay.replay import replay as carry_out
    from raysim.replay.terminal import replays

    with exit_status(debug):
        RunDirectory(path).require()
        chosen, wanted = parse_defenses(defense), parse_rounds(rounds)
        if nodes is not None:
            if address is not None:
                raise ConfigError(
                    "--address", "must be left out beside --nodes: clusters are brought up", address
                )
            directories = replay_on_nodes(
                path,
                chosen,
                parse_nodes(nodes),
                kind=kind,
                cpus_per_node=cpus,
                bandwidth=bandwidth,
                rounds=wanted,
                warm_up=warm_up,
            )
        else:
            if cpus is not None or bandwidth is not None or kind != "raylets":
                raise ConfigError(
                    "--nodes", "must be given with --kind, --cpus and --bandwidth", nodes, "1,2"
                )
            directories = carry_out(
                path, chosen, rounds=wanted, backend=backend, address=address, warm_up=warm_up
            )
        console = results.console()
        for table in replays(path, directories):
            console.print(table)
            console.print()
        console.print(f"tables  {path}/replays/*/{{rounds,clients,spans}}.parquet", soft_wrap=True)
        console.print(f"summary {path}/replays/summary.md", soft_wrap=True)
