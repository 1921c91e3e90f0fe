"""The command line of `raysim bench rounds`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raysim.exit_status import exit_status


def rounds(
    case: Annotated[list[str] | None, typer.Argument(help="digits, cifar10 (default: both)")] = None,
    repeats: Annotated[int, typer.Option(help="Counted repeats.")] = 7,
    workers: Annotated[int, typer.Option(help="Ray CPUs, and so client actors.")] = 2,
    backend: Annotated[Literal["ray", "inprocess"], typer.Option(help="inprocess: one worker.")] = "ray",
    root: Annotated[str | None, typer.Option(help="Folder of the data sets (default: $RAYSIM_DATA).")] = None,
) -> None:
    """Time a simulated round beside a bare PyTorch loop over the same clients.

    \b
    raysim bench rounds
    raysim bench rounds digits --repeats 3

    Each repeat times the bare loop, with one thread and with as many as there are workers, and then one whole simulated
    round: broadcast, local training, upload, Krum, evaluation, telemetry, tables and checkpoint. The ideal is the time
    with one thread divided by the number of workers. Rounds over a grid of settings: `raysim bench growth`.
    """
    with exit_status():
        from raysim.errors import unknown_name
        from raysim.studies.costs.defense_report import print_targets
        from raysim.studies.option_lists import at_least_one
        from raysim.studies.report import print_rounds
        from raysim.studies.rounds.cases import CASES, WARM_UP, bench_config
        from raysim.studies.rounds.measure import measure

        at_least_one("repeats", repeats)
        at_least_one("workers", workers)
        for name in case or ():
            if name not in CASES:
                raise unknown_name("case", name, CASES)
        for name in case or CASES:
            config = bench_config(name, WARM_UP + repeats, root)
            times = measure(config, repeats, workers, on_ray=backend == "ray")
            print_rounds(name, config, times, backend)
            print_targets(times.targets(name))
