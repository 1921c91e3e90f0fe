"""Heat maps of K clients' networks, with and without the autoencoder: the work behind LayerCAM-AE's figure 16.

The networks are drawn, not trained, a group of rows at a time: drawn, mapped, dropped. So K rows are never held
together (100 ResNet-50s are 9.4 GB), and what the maps cost is timed apart from drawing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from raysim import rng
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.errors import unknown_name
from raysim.options import Count, PositiveInt
from raysim.runs.table_schema import Rows, TableSchema
from raysim.studies.curves import by_size, curves_of, growth
from raysim.studies.options import Image, Numbers, Written
from raysim.studies.study import Bench, Cell, OnBackend, Page, Study, columns

if TYPE_CHECKING:
    import pyarrow as pa

    from defenses.cam_autoencoder import CAMAutoencoder
    from raysim.context import Context

DRAWING, MAPS = "drawing", "maps"
"""Parts: networks are drawn in no round."""

REPORTED_S = {24: (0.847, 1.647), 48: (1.315, 1.667)}
"""Figure 16 as the text gives it: users -> seconds a round without and with autoencoder, on the paper's machine."""


def _map_size(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class MapsPlan(OnBackend):
    """Sizes. probe_size, map_size: see HeatMapDefense; the defaults are the published code's, like a width of 128."""

    grid: ClassVar = frozenset({"clients"})
    model: str = Field("resnet50", description="the clients' network")
    image: Image = Field((3, 32, 32), description="size of its images")
    classes: PositiveInt = Field(10, description="its classes")
    clients: Numbers = Field((24, 48, 72, 100), description="K, with commas between")
    method: Literal["layercam", "gradcam"] = Field("layercam", description="how maps are made")
    probe_size: Count = Field(224, description="side to which the image is enlarged; 0: left as it is")
    map_size: Annotated[int | str, BeforeValidator(_map_size), Written("SIZE")] = Field(
        "input", description="native, input, or a side in pixels"
    )
    hidden: Numbers = Field((4, 128), description="widths of the autoencoder, with commas between")
    repeats: PositiveInt = Field(3, description="counted repeats, after one that warms up")
    rows: PositiveInt = Field(8, description="clients whose rows are drawn, mapped and dropped together")
    seed: Count = Field(0, description="what everything is drawn from")

    @model_validator(mode="after")
    def _known(self) -> Self:
        from raysim.models import MODELS

        if self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)
        self.defense()
        return self

    def defense(self) -> CAMAutoencoder:
        """The defense whose maps are made: it refuses options out of range."""
        from defenses.gradcam_ae import GradCAMAE
        from defenses.layercam_ae import LayerCAMAE

        kind = {"gradcam": GradCAMAE, "layercam": LayerCAMAE}[self.method]
        return kind(probe="fixed", probe_size=self.probe_size or None, map_size=self.map_size)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MapsCell(Cell):
    """K clients."""

    clients: int


@dataclass(frozen=True)
class MapMaker:
    """The defense whose maps are made, and its context."""

    defense: CAMAutoencoder
    context: Context


class Maps(Study[MapsPlan, MapsCell]):
    """Heat maps of K networks with and without the autoencoder (LayerCAM-AE, figure 16): seconds against K.

    \b
    raysim bench maps --out maps                       as the published code: 224 x 224, in and out
    raysim bench maps --probe-size 64 --map-size native --out small-maps
    """

    name = "maps"
    title = "Heat maps with and without autoencoder"
    plan = MapsPlan
    tables: ClassVar = {
        "maps": TableSchema(
            "maps",
            columns(
                clients=("int32", "K"),
                part=("string", "drawing, maps, an autoencoder by its width, or maps and autoencoder"),
                repeat=("int32", "from 0; networks are drawn once"),
                wall_s=("float64", "seconds"),
                map_height=("int32", "pixels"),
                map_width=("int32", "pixels"),
            ),
        )
    }

    def cells(self, plan: MapsPlan) -> list[MapsCell]:
        """See Study."""
        return [MapsCell(clients) for clients in plan.clients]

    @contextlib.contextmanager
    def opened(self, plan: MapsPlan, bench: Bench) -> Iterator[MapMaker]:
        """One group's maps, and each autoencoder by as many tasks as there are workers."""
        from raysim.studies.matrix import MatrixSpec, build_matrix

        spec = MatrixSpec(plan.model, plan.image, plan.classes, clients=1, malicious=0, seed=plan.seed)
        warm = MapMaker(plan.defense(), build_matrix(spec, bench.backend).context)
        warm.defense.init(warm.context)  # refuses a probe that the network cannot take
        members = np.arange(min(plan.rows, plan.clients[0]))
        maps, _, _ = group_maps(plan, warm, members, plan.clients[0], 1)
        flat = [maps.reshape(len(maps), -1)] * bench.workers
        for hidden in plan.hidden:
            warm.context.map("autoencoder", _judge_maps, flat, hidden, plan.seed)
        yield warm

    def measure(self, plan: MapsPlan, cell: MapsCell, bench: MapMaker) -> Mapping[str, Rows]:
        """Drawing (once), maps, each autoencoder, and maps with each autoencoder, at one K."""
        drawn_s, spent, made = 0.0, np.zeros(plan.repeats), []
        for first in range(0, cell.clients, plan.rows):
            members = np.arange(first, min(first + plan.rows, cell.clients))
            maps, draw_s, maps_s = group_maps(plan, bench, members, cell.clients, plan.repeats)
            made.append(maps)
            drawn_s += draw_s
            spent += maps_s
        maps = np.concatenate(made)
        alone = {hidden: autoencoder_s(plan, bench.context, maps, hidden) for hidden in plan.hidden}
        parts = {DRAWING: np.array([drawn_s]), MAPS: spent}
        parts |= {_autoencoder(hidden): s for hidden, s in alone.items()}
        parts |= {_together(hidden): spent + s for hidden, s in alone.items()}
        size = {"map_height": maps.shape[1], "map_width": maps.shape[2]}
        return {
            "maps": [
                {**size, "part": part, "repeat": repeat, "wall_s": float(s)}
                for part, found in parts.items()
                for repeat, s in enumerate(found)
            ]
        }

    def page(self, plan: MapsPlan, tables: Mapping[str, pa.Table]) -> Page:
        """See Study."""
        from raysim.studies.figure import labelled_curves

        table = tables["maps"]
        seconds = curves_of(table, "wall_s", "clients", "part")
        size = (table["map_height"][0].as_py(), table["map_width"][0].as_py())
        whole = {
            part: points for part, points in seconds.items() if part == MAPS or part.startswith(f"{MAPS} +")
        }
        parts = {MAPS: seconds[MAPS], **{part: seconds[part] for part in seconds if part not in whole}}
        panels = {"With and without autoencoder": whole, "The parts": parts}
        figure = labelled_curves(panels, x="clients, K", y="seconds a round", quiet=[DRAWING])
        sections = [by_size("K; seconds", seconds), growth("part", "K", seconds), _notes(plan, *size)]
        return Page(sections, {"seconds": (self.title, figure)})


def group_maps(
    plan: MapsPlan, bench: MapMaker, members: np.ndarray, clients: int, repeats: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """(maps [k, h, w] of these of the K clients, seconds of drawing their rows, seconds of the maps [repeats]).

    The rows lie where they were drawn, and are gone when this returns.
    """
    from raysim.engine.synthetic_updates import synthetic_updates

    ctx = bench.context
    ctx.backend.telemetry.drain()
    updates, _ = synthetic_updates(ctx.backend, ctx.layout, clients, seed=plan.seed, clients=members)
    draw_s = _stage_s(ctx, "synthetic")
    spent = np.zeros(repeats)
    for repeat in range(repeats):
        maps = bench.defense.heat_maps(updates, ctx)
        spent[repeat] = _stage_s(ctx, "cam")
    return maps, draw_s, spent


def autoencoder_s(plan: MapsPlan, ctx: Context, maps: np.ndarray, hidden: int) -> np.ndarray:
    """Seconds [repeats] of the stage that trains an autoencoder of this width on all maps [K, h, w]."""
    seed = rng.torch_seed(plan.seed, "bench", "autoencoder")
    spent = np.zeros(plan.repeats)
    for repeat in range(plan.repeats):
        ctx.run("autoencoder", _judge_maps, maps.reshape(len(maps), -1), hidden, seed)
        spent[repeat] = _stage_s(ctx, "autoencoder")
    return spent


def _judge_maps(maps: np.ndarray, hidden: int, seed: int) -> np.ndarray:
    """The maps' reconstruction errors [K]."""
    from defenses.autoencoder import reconstruct, reconstruction_errors

    return reconstruction_errors(maps, reconstruct(maps, hidden=hidden, seed=seed))


def _stage_s(ctx: Context, stage: str) -> float:
    """Seconds of a stage since this was last asked."""
    spans = ctx.backend.telemetry.drain()
    return sum(span.wall_s for span in spans if span.stage == stage and span.task == WHOLE_STAGE)


def _autoencoder(hidden: int) -> str:
    return f"autoencoder, width {hidden}"


def _together(hidden: int) -> str:
    return f"maps + autoencoder, width {hidden}"


def _notes(plan: MapsPlan, map_height: int, map_width: int) -> str:
    channels, height, width = plan.image
    probe = "as it is" if not plan.probe_size else f"enlarged to {plan.probe_size} x {plan.probe_size}"
    reported = "; ".join(f"{k} users {bare} s and {both} s" for k, (bare, both) in REPORTED_S.items())
    return (
        f"{plan.method}, {plan.model} on one {channels} x {height} x {width} image, {probe}; maps of {map_height} x"
        f" {map_width}. Median of {plan.repeats} (first to third quartile). Networks are drawn {plan.rows}"
        " at a time, mapped and dropped; drawing is timed once, apart. Maps are a stage of tasks over row blocks, an"
        " autoencoder is one task on all K maps.\n\n"
        f"Reported (LayerCAM-AE, figure 16, ResNet-50 on the paper's machine), without and with autoencoder:"
        f" {reported}."
    )
