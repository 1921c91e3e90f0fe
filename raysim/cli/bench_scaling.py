"""The command line of `raysim bench scaling`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from raysim.exit_status import exit_status


def scaling(
    defense: Annotated[
        list[str],
        typer.Option(
            metavar="NAMES", help="With commas between; a part KEY=VALUE belongs to the name before it."
        ),
    ],
    clients: Annotated[str, typer.Option(metavar="NUMBERS", help="K, with commas between.")] = "24,48,72,100",
    parameters: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBERS",
            help="d, with commas between: the model's width follows. Default: the model's own.",
            show_default=False,
        ),
    ] = None,
    nodes: Annotated[str, typer.Option(metavar="NUMBERS", help="With commas between.")] = "1",
    repeats: Annotated[int, typer.Option(help="Of every cell; each after a round that warms up.")] = 5,
    updates: Annotated[
        str, typer.Option(metavar="synthetic|RUN", help="RUN: directory of a run with record.updates=true.")
    ] = "synthetic",
    model: Annotated[str, typer.Option(help="Whose parameters make the d columns.")] = "leaf_cnn",
    image: Annotated[str, typer.Option(help="CHANNELSxHEIGHTxWIDTH of its images.")] = "1x28x28",
    classes: Annotated[int, typer.Option(help="Its classes.")] = 62,
    malicious: Annotated[float, typer.Option(help="Share of clients that are planted as malicious.")] = 0.1,
    kind: Annotated[
        str, typer.Option(metavar="local|raylets|namespaces|address", help="What nodes are made of.")
    ] = "raylets",
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="address: of the cluster that is up.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="namespaces: of each link, 100mbit or 1gbit.")
    ] = None,
    cpus_per_node: Annotated[
        int | None,
        typer.Option(help="Default: this machine's by the most nodes.", show_default=False),
    ] = None,
    object_store: Annotated[
        float | None,
        typer.Option(
            metavar="GIB", help="Of each node. Default: an equal part of what there is.", show_default=False
        ),
    ] = None,
    backend: Annotated[Literal["ray", "inprocess"], typer.Option(help="inprocess: one worker.")] = "ray",
    rows_per_block: Annotated[
        int | None, typer.Option(help="Rows in a tile. Default: two blocks a worker.", show_default=False)
    ] = None,
    tile_mib: Annotated[int, typer.Option(help="Size of K rows in one column shard, in MiB.")] = 64,
    seed: Annotated[int, typer.Option(help="What matrices and orders are drawn from.")] = 0,
    out: Annotated[Path, typer.Option(help="Where tables, report and figures go.")] = Path(
        "runs/bench-scaling"
    ),
    resume: Annotated[bool, typer.Option("--resume", help="Measure only the cells that OUT lacks.")] = False,
) -> None:
    """Measure what defenses cost, stage by stage, as clients, parameters and nodes grow.

    \b
    raysim bench scaling --defense krum,pdrr,rule=median,layercam_ae --clients 24,48,72,100
    raysim bench scaling --defense krum,median --clients 100 --parameters 100000,1000000,6603710
    raysim bench scaling --defense krum --clients 48,96 --nodes 1,2 --kind namespaces --bandwidth 1gbit

    Every cell (defense, K, d, nodes, repeat) is written as it is finished, so that --resume goes on from there, or
    extends a finished measurement. In every repeat the matrices, and the defenses on each, come in a new order. OUT
    gets stages.parquet, memory.parquet, scaling.md and figures.
    """
    with exit_status():
        from raysim.errors import ConfigError
        from raysim.studies.matrix import image_shape
        from raysim.studies.option_lists import whole_numbers
        from raysim.studies.scaling.measure import measure, of_run
        from raysim.studies.scaling.plan import SYNTHETIC, ScalingPlan, sizes_of, split_labels
        from raysim.studies.scaling.report import write_report

        synthetic = updates == SYNTHETIC
        counts = whole_numbers("nodes", nodes)
        wanted = whole_numbers("parameters", parameters) if parameters else ()
        if wanted and not synthetic:
            raise ConfigError("parameters", "belongs to synthetic updates; a run has its own model", wanted)
        shape = image_shape(image)
        plan = ScalingPlan(
            defenses=tuple(split_labels(defense)),
            clients=whole_numbers("clients", clients),
            sizes=sizes_of(wanted, model, shape, classes) if synthetic else (),
            nodes=counts,
            repeats=repeats,
            model=model,
            image=shape,
            classes=classes,
            malicious=malicious,
            updates=updates if synthetic else str(Path(updates).resolve()),
            backend=backend,
            kind=kind,
            address=address,
            bandwidth=bandwidth,
            cpus_per_node=len(os.sched_getaffinity(0)) // max(counts) or 1
            if cpus_per_node is None
            else cpus_per_node,
            object_store_bytes=None if object_store is None else int(object_store * 2**30),
            rows_per_block=rows_per_block,
            tile_bytes=tile_mib * 2**20,
            seed=seed,
        )
        measure(of_run(plan), out, resume=resume, tell=lambda line: typer.echo(line, err=True))
        typer.echo(write_report(out))
