"""The command line of `raysim bench rounds`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from raysim.exit_status import exit_status

DEFAULT_WORKERS = 2


def rounds(
    case: Annotated[list[str] | None, typer.Argument(help="digits, cifar10 (default: both)")] = None,
    repeats: Annotated[int, typer.Option(help="Counted repeats.")] = 7,
    workers: Annotated[
        int | None,
        typer.Option(help="Ray CPUs, and so client actors. Default: 2.", show_default=False),
    ] = None,
    backend: Annotated[
        Literal["ray", "inprocess"] | None,
        typer.Option(help="inprocess: one worker. Default: ray.", show_default=False),
    ] = None,
    root: Annotated[str | None, typer.Option(help="Folder of the data sets (default: $RAYSIM_DATA).")] = None,
    clients: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Grid: K, with commas between. Default: the case's own."),
    ] = None,
    nodes: Annotated[str | None, typer.Option(metavar="NUMBERS", help="Grid. Default: 1.")] = None,
    clients_per_actor: Annotated[
        str | None, typer.Option(metavar="auto|NUMBERS", help="Grid. Default: auto.")
    ] = None,
    client_gpus: Annotated[
        str | None, typer.Option(metavar="SHARES", help="Grid: of a GPU, for each client. Default: 0.")
    ] = None,
    timed: Annotated[
        int | None, typer.Option("--rounds", help="Grid: rounds that each repeat times. Default: 3.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="local|raylets|namespaces", help="Grid: of the nodes. Default: raylets."),
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="Grid, namespaces: of each link, 100mbit or 1gbit.")
    ] = None,
    cpus_per_node: Annotated[
        int | None, typer.Option(help="Grid. Default: this machine's by the most nodes.")
    ] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="Grid. Default: 0.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Grid: where tables and report go. Default: runs/bench-rounds.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Grid: only the cells that OUT lacks.")] = False,
) -> None:
    """Time a simulated round beside a bare PyTorch loop over the same clients, or rounds over a grid of settings.

    \b
    raysim bench rounds
    raysim bench rounds digits --clients 25,50,100,200 --nodes 1,2
    raysim bench rounds digits --clients-per-actor auto,1,10 --client-gpus 0,0.01 --gpus-per-node 4

    Without an option of the grid: each repeat times the bare loop, with one thread and with as many as there are
    workers, and then one whole simulated round: broadcast, local training, upload, Krum, evaluation, telemetry, tables
    and checkpoint. The ideal is the time with one thread divided by the number of workers.

    With one: every cell (case, clients, nodes, clients per actor, GPU share) is measured in every repeat, on actors of
    its own and in a new order, and written as it is finished, so that --resume goes on from there. OUT gets
    rounds.parquet, memory.parquet, rounds.md and figures.
    """
    grid = {
        "clients": clients,
        "nodes": nodes,
        "clients_per_actor": clients_per_actor,
        "client_gpus": client_gpus,
        "rounds": timed,
        "kind": kind,
        "bandwidth": bandwidth,
        "cpus_per_node": cpus_per_node,
        "gpus_per_node": gpus_per_node,
        "out": out,
        "resume": resume or None,
    }
    with exit_status():
        from raysim.studies.option_lists import at_least_one

        at_least_one("repeats", repeats)
        given = {key: value for key, value in grid.items() if value is not None}
        if given:
            _refuse_beside_a_grid(workers=workers, backend=backend)
            _over_grid(tuple(case or ()), repeats, root, given)
        else:
            at_least_one("workers", DEFAULT_WORKERS if workers is None else workers)
            _beside_bare_loop(case or [], repeats, workers or DEFAULT_WORKERS, backend or "ray", root)


def _beside_bare_loop(names: list[str], repeats: int, workers: int, backend: str, root: str | None) -> None:
    from raysim.errors import unknown_name
    from raysim.studies.costs.defense_report import print_targets
    from raysim.studies.report import print_rounds
    from raysim.studies.rounds.measure import CASES, WARM_UP, bench_config, measure

    for name in names:
        if name not in CASES:
            raise unknown_name("case", name, CASES)
    for name in names or CASES:
        config = bench_config(name, WARM_UP + repeats, root)
        times = measure(config, repeats, workers, on_ray=backend == "ray")
        print_rounds(name, config, times, backend)
        print_targets(times.targets(name))


def _over_grid(names: tuple[str, ...], repeats: int, root: str | None, given: dict[str, Any]) -> None:
    from raysim.studies.option_lists import whole_numbers
    from raysim.studies.rounds.growth import GrowthPlan, measure, per_actor, shares
    from raysim.studies.rounds.growth_report import write_report
    from raysim.studies.rounds.measure import CASES

    out, resume = given.pop("out", Path("runs/bench-rounds")), given.pop("resume", False)
    readers: dict[str, Callable[[str, str], tuple[Any, ...]]] = {
        "clients": whole_numbers,
        "nodes": whole_numbers,
        "clients_per_actor": per_actor,
        "client_gpus": shares,
    }
    for key in readers.keys() & given.keys():
        given[key] = readers[key](key.replace("_", "-"), given[key])
    most = max(given.get("nodes", (1,)))
    shared = {"cpus_per_node": max(1, len(os.sched_getaffinity(0)) // most)}
    plan = GrowthPlan(names or tuple(CASES), repeats=repeats, root=root, **{**shared, **given})
    measure(plan, out, resume=resume, tell=lambda line: typer.echo(line, err=True))
    typer.echo(write_report(out))


def _refuse_beside_a_grid(**options: object) -> None:
    from raysim.errors import ConfigError

    for key, value in options.items():
        if value is not None:
            raise ConfigError(key, "belongs to the measurement beside the bare loop, not to a grid", value)
