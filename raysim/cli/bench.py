"""`raysim bench`: measurements against limits taken in the same run."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from raysim.cli.bench_gpu import gpu
from raysim.cli.study_command import command_of
from raysim.exit_status import exit_status
from raysim.studies.costs.attacks import Attacks
from raysim.studies.coverage import Coverage
from raysim.studies.detection import Detection
from raysim.studies.maps import Maps
from raysim.studies.mmd import MMD
from raysim.studies.option_lists import at_least_one
from raysim.studies.population import Population
from raysim.studies.rounds.growth import Growth
from raysim.studies.rounds.study import Rounds
from raysim.studies.scaling.study import Scaling
from raysim.studies.similarity import Similarity

app = typer.Typer(
    help="Measure raysim against limits taken in the same run on the same machine; ratios travel, seconds do not.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
for study in (
    Scaling(), Attacks(), Rounds(), Growth(), Population(), Detection(), Similarity(), MMD(), Coverage(), Maps(),
):  # fmt: skip
    app.command(study.name)(command_of(study))
app.command("gpu")(gpu)


@app.command("defenses")
def defenses(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME[,KEY=VALUE...]", help="Default: those that have a target.", show_default=False
        ),
    ] = None,
    case: Annotated[
        Literal["matrix", "sums", "cam", "mmd", "similarities", "autoencoder"],
        typer.Option(help="matrix: defenses on K x d updates; others: one kernel at a fixed size."),
    ] = "matrix",
    clients: Annotated[int, typer.Option(help="K.")] = 50,
    malicious: Annotated[int, typer.Option(help="How many of them are planted as malicious.")] = 5,
    model: Annotated[str, typer.Option(help="Whose parameters make the d columns.")] = "leaf_cnn",
    image: Annotated[
        str | None,
        typer.Option(
            help="CHANNELSxHEIGHTxWIDTH of its images. Default: 1x28x28; for the case cam 3x224x224, to which the "
            "published code enlarges.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[int, typer.Option(help="Its classes.")] = 62,
    option: Annotated[
        list[str] | None, typer.Option(metavar="DEFENSE.KEY=VALUE", help="An option of a defense.")
    ] = None,
    peers: Annotated[bool, typer.Option("--peers", help="Also ByzFL and pytorch-grad-cam.")] = False,
    backend: Annotated[
        Literal["ray", "inprocess"], typer.Option(help="inprocess: threads, not tasks.")
    ] = "ray",
    workers: Annotated[int, typer.Option(help="Ray CPUs, or threads.")] = 2,
    repeats: Annotated[int, typer.Option(help="Counted repeats, after one that warms up.")] = 3,
    tile_mib: Annotated[int, typer.Option(help="Size of K rows in one column shard, in MiB.")] = 64,
    seed: Annotated[int, typer.Option(help="What the matrix is drawn from.")] = 0,
) -> None:
    """Time what defenses do on a matrix of updates, stage by stage, beside two limits taken in the same run.

    \b
    raysim bench defenses --peers                      the defenses that have a target, K = 50, d = 6,603,710
    raysim bench defenses krum bulyan --clients 100
    raysim bench defenses pdrr,rule=median --option pdrr.q=0.9
    raysim bench defenses --case sums                  a weighted sum of 48 rows beside one read of them
    raysim bench defenses --case cam --peers           24 ResNet-50s beside pytorch-grad-cam (sizes: --image)

    The matrix is drawn, not trained, and lies in tiles as a run would leave it. The limits: one copy of it, and one
    K x K Gram product in float64 by tasks that do nothing else. Ratios are taken repeat by repeat.
    """
    with exit_status():
        from raysim.studies.costs.defenses_command import bench_kernel, bench_matrix
        from raysim.studies.matrix import MatrixSpec, image_shape

        for key, value in (("repeats", repeats), ("workers", workers), ("tile-mib", tile_mib)):
            at_least_one(key, value)
        if case != "matrix":
            shown = image_shape(image or "3x224x224")
            bench_kernel(case, backend, workers, repeats, seed, image=shown, peers=peers)
            return
        shape = image_shape(image or "1x28x28")
        spec = MatrixSpec(model, shape, classes, clients, malicious, seed, tile_mib * 2**20)
        bench_matrix(names or (), option or (), spec, backend, workers, repeats, peers=peers)
