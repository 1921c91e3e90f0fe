"""`raysim bench gpu`: what a GPU computes, beside the CPU, in one process and without Ray."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from raysim.exit_status import exit_status


def gpu(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME[,KEY=VALUE...]",
            help="Defenses whose verdicts are compared, and no timings. Default: all, and timings.",
            show_default=False,
        ),
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Take a GPU's paths on the CPU, if there is none.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Of the CPU's side. Default: one a processor.", show_default=False)
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Counted repeats, after one that warms up.")] = 3,
    limit: Annotated[int, typer.Option(help="Seconds after which no other part is begun.")] = 400,
) -> None:
    """Compare verdicts of every defense, seconds of its stages, and local training in stacks, on a GPU and on the CPU.

    \b
    raysim bench gpu                                   all of it, in less than eight minutes; `make gpu`
    raysim bench gpu krum layercam_ae                  only whether these judge alike
    raysim bench gpu --rehearse krum                   ... without a GPU

    Exit status 1 if a verdict differs, 2 if there is no GPU.
    """
    with exit_status():
        from raysim.studies.gpus.command import GpuPlan, bench_gpu, device_to_measure

        device = device_to_measure(rehearse)
        plan = GpuPlan(device, threads or os.cpu_count() or 1, repeats=repeats, limit_s=limit)
        if names:
            plan = plan.only(tuple(names))
        bench_gpu(plan, lambda part: typer.echo(part, err=True))
