"""`raysim bench`: measurements against limits taken in the same run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raysim.exit_status import exit_status

app = typer.Typer(
    help="Measure raysim against limits taken in the same run on the same machine; ratios travel, seconds do not.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("rounds")
def rounds(
    case: Annotated[list[str] | None, typer.Argument(help="digits, cifar10 (default: both)")] = None,
    repeats: Annotated[int, typer.Option(help="Counted repeats, after two that warm up.")] = 7,
    workers: Annotated[int, typer.Option(help="Ray CPUs, and so client actors.")] = 2,
    backend: Annotated[Literal["ray", "inprocess"], typer.Option(help="inprocess: one worker.")] = "ray",
    root: Annotated[str | None, typer.Option(help="Folder of the data sets (default: $RAYSIM_DATA).")] = None,
) -> None:
    """Time a simulated round beside a bare PyTorch loop over the same clients.

    The ideal is the bare loop's time divided by the number of workers. Each repeat times the bare loop and then
    one whole simulated round: broadcast, local training, upload, Krum, evaluation, telemetry, tables and
    checkpoint.
    """
    with exit_status():
        from raysim.bench.report import print_rounds
        from raysim.bench.rounds import CASES, bench_config, measure
        from raysim.errors import unknown_name

        for name in case or CASES:
            if name not in CASES:
                raise unknown_name("case", name, CASES)
        for name in case or CASES:
            config = bench_config(name, repeats + 2, root)
            times = measure(config, repeats, workers, on_ray=backend == "ray")
            print_rounds(name, config, times, backend)


@app.command("population")
def population(
    clients: Annotated[int, typer.Option(help="Clients in all.")] = 1_000_000,
    cohort: Annotated[int, typer.Option(help="Clients in a round.")] = 100,
    count: Annotated[int, typer.Option("--rounds", help="Rounds.")] = 3,
    backend: Annotated[Literal["ray", "inprocess"], typer.Option()] = "ray",
) -> None:
    """Run a large population of which a cohort takes part, and report the memory of all processes together."""
    with exit_status():
        from raysim.bench.population import measure, population_config
        from raysim.bench.report import print_population

        config = population_config(clients, cohort, count)
        print_population(config, measure(config, backend), backend)
