"""`raysim bench kernels`: single pieces of work beside the least they could take, or beside a peer's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from raysim import rng
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies import markdown
from raysim.studies.options import Images, Written, image_shape, shape_text
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns
from raysim.studies.table import Values, gathered

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from raysim.studies.matrix import Matrix, MatrixSpec

Kernel = Literal["sums", "cam"]

LEAF_IMAGE = "1x28x28"

TARGET_CLASS = 3
"""The class that maps explain."""

STAGE, ALONE, BIND, PEER = (
    "from rows to maps, as tasks",
    "maps alone, one process",
    "putting parameters in place, one process",
    "pytorch-grad-cam, one process",
)
COMBINE, READ, COPY, BLAS = (
    "weighted sum",
    "one read",
    "one copy",
    "weights @ blocks of 4,096 columns in float64",
)


class KernelsPlan(OnBackend):
    """What is measured, and how."""

    grid: ClassVar = frozenset({"kernel", "image", "peers"})
    kernel: Annotated[tuple[Kernel, ...], Written("sums|cam", argument=True, many=True)] = Field(
        get_args(Kernel), description="default: both"
    )
    image: Images = Field(
        ((3, 224, 224),),
        description="what cam shows the networks; the published code enlarges to 224 x 224",
    )
    peers: bool = Field(False, description="also pytorch-grad-cam")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    seed: Count = Field(0, description="what everything is drawn from")

    def cells(self) -> list[KernelsCell]:
        """cam by image."""
        sizes = {"sums": [LEAF_IMAGE], "cam": list(map(shape_text, self.image))}
        return [KernelsCell(kernel, image) for kernel in self.kernel for image in sizes[kernel]]

    def spec(self, cell: KernelsCell) -> MatrixSpec:
        """sums: 48 rows of LEAF CNN; cam: 24 ResNet-50s."""
        from raysim.studies.matrix import MatrixSpec

        shape = image_shape(cell.image)
        if cell.kernel == "sums":
            return MatrixSpec("leaf_cnn", shape, 62, clients=48, malicious=0, seed=self.seed)
        return MatrixSpec("resnet50", shape, 10, clients=24, malicious=3, seed=self.seed)


@dataclass(frozen=True)
class KernelsCell(Cell):
    """One piece of work, on networks for images of a size."""

    kernel: str
    image: str


class Kernels(Study[KernelsPlan, KernelsCell]):
    """Time a weighted sum of rows beside one read of them, and class-activation maps beside pytorch-grad-cam.

    \b
    raysim bench kernels sums                          48 rows of 6,603,710 values
    raysim bench kernels cam --peers                   24 ResNet-50s (sizes: --image)
    """

    name = "kernels"
    title = "What single kernels cost"
    plan = KernelsPlan
    tables: ClassVar = {
        "kernels": TableSchema(
            "kernels",
            columns(
                kernel=("string", "sums or cam"),
                image=("string", "size of the networks' images"),
                work=("string", "what was timed"),
                repeat=("int32", "from 0"),
                wall_s=("float64", "seconds"),
            ),
        )
    }

    def cells(self, plan: KernelsPlan) -> list[KernelsCell]:
        """See Study."""
        return plan.cells()

    def check(self, plan: KernelsPlan) -> Iterable[str]:
        """Refuse a peer that is not installed."""
        from raysim.studies.costs.peers import peer_package

        if plan.peers and "cam" in plan.kernel:
            peer_package("pytorch_grad_cam")
        return ()

    def measure(self, plan: KernelsPlan, cell: KernelsCell, bench: Bench) -> Mapping[str, Rows]:
        """See cam_seconds and sums_seconds."""
        from raysim.studies.matrix import build_matrix

        matrix = build_matrix(plan.spec(cell), bench.backend)
        if cell.kernel == "sums":
            found = sums_seconds(matrix, plan.repeats)
        else:
            found = cam_seconds(matrix, plan.repeats, plan.workers, peers=plan.peers)
        return {
            "kernels": [
                {"work": work, "repeat": repeat, "wall_s": s}
                for work, spent in found.items()
                for repeat, s in enumerate(spent)
            ]
        }

    def page(self, plan: KernelsPlan, tables: Mapping[str, pa.Table]) -> Page:
        """A table a kernel and size, and the ratios that matter."""
        from raysim.studies.figure import bars

        found = gathered(tables["kernels"], "wall_s", "kernel", "image", "work")
        sections: list[str] = []
        drawn: dict[str, Values] = {}
        for kernel, image in dict.fromkeys((kernel, image) for kernel, image, _ in found):
            spent = {work: values for (*of, work), values in found.items() if of == [kernel, image]}
            lines = [[work, *markdown.extent(values.all)] for work, values in spent.items()]
            spec = plan.spec(KernelsCell(kernel, image))
            title = f"## {kernel}: {spec.clients} x {spec.model} at {image}"
            sections += [title, markdown.table(["seconds", "min", "median", "max"], lines), _ratios(spent)]
            drawn |= {f"{kernel} {image}: {work}": values for work, values in spent.items()}
        caption = "Seconds of single kernels"
        return Page(
            sections, {"seconds": (caption, bars(drawn, x=f"{caption}; line: first to third quartile"))}
        )


def _ratios(spent: Mapping[str, Values]) -> str:
    """Repeat by repeat, their medians."""

    def ratio(over: np.ndarray, under: np.ndarray) -> str:
        return f"{Values(over / under).median:.2f}"

    if COMBINE in spent:
        return f"Weighted sum / one read: {ratio(spent[COMBINE].all, spent[READ].all)}."
    if PEER not in spent:
        return ""
    own, bind, peer, whole = (spent[work].all for work in (ALONE, BIND, PEER, STAGE))
    return (
        f"pytorch-grad-cam / maps alone: {ratio(peer, own)}. (Parameters in place + pytorch-grad-cam) / as tasks:"
        f" {ratio(peer + bind, whole)}."
    )


def sums_seconds(matrix: Matrix, repeats: int) -> dict[str, list[float]]:
    """One weighted sum of K rows, beside one read and one copy of them and a product in BLAS, by the same workers.

    The first sum is timed apart: every process loads the compiled loop then, or compiles it if it is not on disk.
    """
    from raysim.studies.limits import copy_matrix, read_matrix
    from raysim.studies.timing import seconds

    updates = matrix.updates
    weights = rng.generator(matrix.spec.seed, "bench", "weights").random(updates.num_clients)
    ways = {
        COMBINE: lambda: updates.combine(weights),
        READ: lambda: read_matrix(updates),
        COPY: lambda: copy_matrix(updates),
        BLAS: lambda: updates.map_columns("product", partial(_weighted, weights), dtype=np.float64),
    }
    read_matrix(updates)
    first = seconds(updates.combine, weights)
    spent: dict[str, list[float]] = {work: [] for work in ways}
    for _ in range(repeats):
        for work, way in ways.items():
            spent[work].append(seconds(way))
    return {"first weighted sum": [first], **spent}


def cam_seconds(matrix: Matrix, repeats: int, threads: int, *, peers: bool) -> dict[str, list[float]]:
    """LayerCAM of K networks: from rows to maps on the backend, and the maps alone in this process beside a peer's.

    In this process both packages are given the same networks with the clients' parameters in place, one by one.
    """
    from defenses.class_activation import model_maps
    from defenses.client_models import map_models
    from defenses.heat_maps import Probe, client_map
    from raysim.backends.base import ThreadLimit
    from raysim.studies.costs.peers import grad_cam_map, learning
    from raysim.studies.timing import seconds

    ctx, updates = matrix.context, matrix.updates
    layer, image = ctx.model.cam_layer, ctx.require_server_data().images[0]
    probe = Probe(image, "layercam", TARGET_CLASS)
    batch = probe.images()

    def rows_to_maps() -> None:
        map_models(updates, "cam", client_map, ctx.model, ctx.published, layer, probe)

    def maps_alone(model: nn.Module) -> None:
        model_maps(model, layer, batch, method="layercam", target=TARGET_CLASS)

    rows_to_maps()
    spent: dict[str, list[float]] = {STAGE: [seconds(rows_to_maps) for _ in range(repeats)]}
    with ThreadLimit(threads)():
        for repeat in range(repeats + 1):
            own, binds, peer = 0.0, [], 0.0
            for model, bind_s in _models(matrix):
                binds.append(bind_s)
                own += seconds(maps_alone, model)
                if peers:
                    with learning(model):
                        peer += seconds(grad_cam_map, model, layer, batch, TARGET_CLASS, "layercam")
            if repeat:  # the first one warms up
                sums = {ALONE: own, BIND: float(np.median(binds)) * updates.num_clients}
                for work, s in {**sums, **({PEER: peer} if peers else {})}.items():
                    spent.setdefault(work, []).append(s)
    return spent


def _weighted(weights: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """weights [K] times columns [K, c] float64: [c] float32."""
    total: np.ndarray = weights @ columns
    return total.astype(np.float32)


def _models(matrix: Matrix) -> Iterator[tuple[nn.Module, float]]:
    """Every client's network in turn, and the seconds that putting its parameters in place took."""
    from defenses.client_models import bound_models

    ctx = matrix.context
    for block in matrix.updates.blocks:
        tiles = [ctx.backend.get(tile) for tile in block.tiles]
        rows = ([tile[row] for tile in tiles] for row in block.rows)
        models = bound_models(ctx.model, ctx.layout, ctx.global_vector, rows)
        while True:
            start = time.perf_counter()
            model = next(models, None)
            if model is None:
                break
            yield model, time.perf_counter() - start
