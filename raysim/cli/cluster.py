"""`raysim cluster`: a command on a cluster that is up for as long as the command runs."""

from __future__ import annotations

from typing import Annotated

import typer

from raysim.exit_status import exit_status

app = typer.Typer(
    help="Bring Ray nodes up, run a command on them, take them down.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _group() -> None:
    """Bring Ray nodes up, run a command on them, take them down."""


@app.command("run")
def run(
    kind: Annotated[str, typer.Argument(metavar="local|raylets|namespaces|address", show_default=False)],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", show_default=False)],
    nodes: Annotated[int, typer.Option(help="How many.")] = 1,
    cpus: Annotated[
        int | None, typer.Option(help="Of each node. Default: an equal part of this machine's.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Whole GPUs of each node.")] = 0,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="namespaces: of each link, 100mbit or 1gbit.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="address: of the cluster that is up.")
    ] = None,
) -> None:
    """Run a command on new nodes; its exit status is this one's.

    \b
    raysim cluster run raylets --nodes 2 -- raysim run quickstart
    raysim cluster run namespaces --nodes 4 --bandwidth 1gbit -- raysim run quickstart

    local: one node, this machine. raylets: several Ray nodes on this machine. namespaces: several hosts on this
    machine, each with a network of its own (needs root). address: a cluster that is up, or will soon have that many
    nodes. The command finds the address in RAY_ADDRESS, and the token of new nodes in RAY_AUTH_TOKEN_PATH.
    """
    with exit_status():
        from cluster.clusters import bring_up

        with bring_up(
            kind,
            nodes=nodes,
            cpus_per_node=cpus,
            gpus_per_node=gpus,
            bandwidth=bandwidth,
            address=address,
        ) as cluster:
            status = cluster.run(command)
    raise typer.Exit(status)
