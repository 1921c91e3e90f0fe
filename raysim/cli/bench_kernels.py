"""The studies among `raysim bench`'s commands: each leaves a table as Parquet and Markdown, and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from raysim.exit_status import exit_status

studies = typer.Typer(rich_markup_mode=None)

Out = Annotated[Path, typer.Option(help="Folder for NAME.parquet, NAME.md and NAME.png.", show_default=False)]
Seed = Annotated[int, typer.Option(help="What everything is drawn from.")]
Repeats = Annotated[int, typer.Option(help="Counted repeats, after one that warms up.")]
BackendName = Annotated[Literal["ray", "inprocess"], typer.Option(help="inprocess: threads, not tasks.")]
Workers = Annotated[int, typer.Option(help="Ray CPUs, or threads.")]


@studies.command("similarity")
def similarity(
    out: Out,
    clients: Annotated[
        str, typer.Option(metavar="NUMBERS", help="K, with commas between.")
    ] = "50,100,200,500,1000,2000,5000",
    columns: Annotated[
        int, typer.Option(help="Values compared per client; FedGrad compares one a class, 62 for LEAF CNN.")
    ] = 62,
    spread: Annotated[float, typer.Option(help="A client's own part beside the shared one.")] = 1.0,
    repeats: Repeats = 3,
    pair_limit: Annotated[
        int, typer.Option(help="Above so many clients `pair` is scaled up, not run.")
    ] = 1000,
    history_rounds: Annotated[int, typer.Option(help="Earlier rounds that `transitive` knows.")] = 20,
    share: Annotated[float, typer.Option(help="Of the clients that took part in each of them.")] = 0.1,
    threads: Annotated[int, typer.Option(help="Of BLAS.")] = 1,
    seed: Seed = 0,
) -> None:
    """FedGrad's similarities by `pair`, `batch`, `matrix` and `transitive`: seconds and error against K.

    \b
    raysim bench similarity --out similarity
    raysim bench similarity --columns 126976 --clients 50,100,200,500 --out whole-layer
    """
    with exit_status():
        from raysim.studies.option_lists import whole_numbers
        from raysim.studies.similarity import SimilarityPlan, measure
        from raysim.studies.study import prepare

        sizes = whole_numbers("clients", clients, 2)
        plan = SimilarityPlan(
            sizes, columns, spread, repeats, pair_limit, history_rounds, share, threads, seed
        )
        prepare(out)
        typer.echo(measure(plan, _tell).write(out))


@studies.command("mmd")
def mmd(
    out: Out,
    clients: Annotated[
        str, typer.Option(metavar="NUMBERS", help="n, with commas between.")
    ] = "10,20,50,100,200,500,1000",
    samples: Annotated[
        str, typer.Option(metavar="NUMBERS", help="m of each client, with commas between.")
    ] = "5,10,20,50,100",
    features: Annotated[int, typer.Option(help="Of a sample.")] = 128,
    repeats: Repeats = 3,
    backend: BackendName = "inprocess",
    workers: Workers = 1,
    seed: Seed = 0,
) -> None:
    """FLARE's MMD between all pairs of clients: seconds and memory against n and m, beside a plain loop."""
    with exit_status():
        from raysim.studies.matrix import bench_backend
        from raysim.studies.mmd import MMDPlan, measure
        from raysim.studies.option_lists import at_least_one, whole_numbers
        from raysim.studies.study import prepare

        at_least_one("workers", workers)
        plan = MMDPlan(
            whole_numbers("clients", clients, 2),
            whole_numbers("samples", samples, 2),
            features,
            repeats,
            seed,
        )
        prepare(out)
        with bench_backend(backend, workers) as found:
            study = measure(plan, found, workers, _tell)
        typer.echo(study.write(out))


@studies.command("coverage")
def coverage(
    out: Out,
    population: Annotated[str, typer.Option(metavar="NUMBERS", help="n, with commas between.")] = "100",
    cohort: Annotated[
        str,
        typer.Option(metavar="SIZES", help="Clients a round, or shares such as 20%, with commas between."),
    ] = "5,10,20,30,40,50",
    trials: Annotated[int, typer.Option(help="Simulations of each.")] = 200,
    seed: Seed = 0,
) -> None:
    """Rounds until all pairs of clients have a similarity: simulated, by the exact recursion, and as FedGrad prints it.

    \b
    raysim bench coverage --out coverage
    raysim bench coverage --population 50,100,150,200,250,300,350 --cohort 10%,20%,40%,60% --out figure-10
    """
    with exit_status():
        from raysim.studies.coverage import CoveragePlan, measure
        from raysim.studies.option_lists import whole_numbers
        from raysim.studies.study import prepare

        words = tuple(word.strip() for word in cohort.split(","))
        plan = CoveragePlan(whole_numbers("population", population, 2), words, trials, seed)
        prepare(out)
        typer.echo(measure(plan, _tell).write(out))


@studies.command("maps")
def maps(
    out: Out,
    model: Annotated[str, typer.Option(help="The clients' network.")] = "resnet50",
    image: Annotated[str, typer.Option(help="CHANNELSxHEIGHTxWIDTH of its images.")] = "3x32x32",
    classes: Annotated[int, typer.Option(help="Its classes.")] = 10,
    clients: Annotated[str, typer.Option(metavar="NUMBERS", help="K, with commas between.")] = "24,48,72,100",
    method: Annotated[Literal["layercam", "gradcam"], typer.Option()] = "layercam",
    probe_size: Annotated[
        int, typer.Option(help="Side to which the image is enlarged; 0: left as it is.")
    ] = 224,
    map_size: Annotated[str, typer.Option(help="native, input, or a side in pixels.")] = "input",
    hidden: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Widths of the autoencoder, with commas between.")
    ] = "4,128",
    repeats: Repeats = 3,
    rows: Annotated[int, typer.Option(help="Clients whose rows are drawn, mapped and dropped together.")] = 8,
    backend: BackendName = "ray",
    workers: Workers = 2,
    seed: Seed = 0,
) -> None:
    """Heat maps of K networks with and without the autoencoder (LayerCAM-AE, figure 16): seconds against K.

    \b
    raysim bench maps --out maps                       as the published code: 224 x 224, in and out
    raysim bench maps --probe-size 64 --map-size native --out small-maps
    """
    with exit_status():
        from raysim.studies.maps import MapsPlan, measure
        from raysim.studies.matrix import bench_backend, image_shape
        from raysim.studies.option_lists import at_least_one, whole_numbers
        from raysim.studies.study import prepare

        at_least_one("workers", workers)
        size: int | str = int(map_size) if map_size.isdecimal() else map_size
        plan = MapsPlan(
            model,
            image_shape(image),
            classes,
            whole_numbers("clients", clients),
            method,
            probe_size or None,
            size,
            whole_numbers("hidden", hidden),
            repeats,
            rows,
            seed,
        )
        prepare(out)
        with bench_backend(backend, workers) as found:
            study = measure(plan, found, workers, _tell)
        typer.echo(study.write(out))


def _tell(line: str) -> None:
    typer.echo(line, err=True)
