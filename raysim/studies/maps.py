"""Heat maps of K clients' networks, with and without the autoencoder: the work behind LayerCAM-AE's figure 16.

The networks are drawn, not trained, a group of rows at a time: drawn, mapped, dropped. So K rows are never held
together (100 ResNet-50s are 9.4 GB), and what the maps cost is timed apart from drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from raysim import rng
from raysim.backends.base import Backend
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.context import Context
from raysim.engine.synthetic_updates import synthetic_updates
from raysim.errors import ConfigError, unknown_name
from raysim.studies.matrix import MatrixSpec, build_matrix
from raysim.studies.study import Study, Times, finish, growth_text, markdown_table, panels, settings_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from defenses.cam_autoencoder import CAMAutoencoder

DRAWING, MAPS = "drawing", "maps"

REPORTED_S = {24: (0.847, 1.647), 48: (1.315, 1.667)}
"""Figure 16 as the text gives it: users -> seconds a round without and with autoencoder, on the paper's machine."""


@dataclass(frozen=True)
class MapsPlan:
    """Sizes. rows: clients whose rows are drawn together. probe_size, map_size: see HeatMapDefense; the defaults are
    the published code's. hidden: widths of the autoencoder; 128 is the published code's.
    """

    model: str = "resnet50"
    image: tuple[int, int, int] = (3, 32, 32)
    classes: int = 10
    clients: tuple[int, ...] = (24, 48, 72, 100)
    method: Literal["layercam", "gradcam"] = "layercam"
    probe_size: int | None = 224
    map_size: int | str = "input"
    hidden: tuple[int, ...] = (4, 128)
    repeats: int = 3
    rows: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        from raysim.models import MODELS

        if self.model not in MODELS:
            raise unknown_name("model", self.model, MODELS)
        self.defense()
        for key in ("classes", "repeats", "rows"):
            if getattr(self, key) < 1:
                raise ConfigError(key, "must be at least 1", getattr(self, key), 1)

    def defense(self) -> CAMAutoencoder:
        """The defense whose maps are made: it refuses options out of range."""
        from defenses.gradcam_ae import GradCAMAE
        from defenses.layercam_ae import LayerCAMAE

        kinds = {"gradcam": GradCAMAE, "layercam": LayerCAMAE}
        if self.method not in kinds:
            raise unknown_name("method", self.method, kinds)
        return kinds[self.method](probe="fixed", probe_size=self.probe_size, map_size=self.map_size)  # type: ignore[arg-type]


def measure(
    plan: MapsPlan, backend: Backend, workers: int, tell: Callable[[str], None] = lambda line: None
) -> Study:
    """Drawing, maps and autoencoders for every K."""
    defense = plan.defense()
    spec = MatrixSpec(plan.model, plan.image, plan.classes, clients=1, malicious=0, seed=plan.seed)
    ctx = build_matrix(spec, backend).context
    defense.init(ctx)  # refuses a probe that the network cannot take
    _warm_up(plan, defense, ctx)
    rows: list[dict[str, Any]] = []
    for clients in plan.clients:
        tell(f"{clients} clients")
        rows += at_one_size(plan, defense, ctx, clients)
    settings = settings_of(plan, backend=type(backend).__name__, workers=workers)
    title = f"Heat maps ({plan.method}) with and without autoencoder"
    sections = [_table(plan, rows), _growth(plan, rows), _notes(plan, rows)]
    return Study("maps", title, settings, rows, sections, _figure(plan, rows))


def _warm_up(plan: MapsPlan, defense: CAMAutoencoder, ctx: Context) -> None:
    """One group's maps, and each autoencoder by as many tasks as there are workers."""
    members = np.arange(min(plan.rows, plan.clients[0]))
    maps, _, _ = group_maps(plan, defense, ctx, members, plan.clients[0], 1)
    flat = maps.reshape(len(maps), -1)
    for hidden in plan.hidden:
        ctx.map("autoencoder", _judge_maps, [flat] * ctx.backend.workers, hidden, plan.seed)


def at_one_size(plan: MapsPlan, defense: CAMAutoencoder, ctx: Context, clients: int) -> list[dict[str, Any]]:
    """The rows of one K: drawing (once), maps, each autoencoder, and maps with each autoencoder."""
    drawn_s, spent, made = 0.0, np.zeros(plan.repeats), []
    for first in range(0, clients, plan.rows):
        members = np.arange(first, min(first + plan.rows, clients))
        maps, draw_s, maps_s = group_maps(plan, defense, ctx, members, clients, plan.repeats)
        made.append(maps)
        drawn_s += draw_s
        spent += maps_s
    maps = np.concatenate(made)
    parts = {DRAWING: np.array([drawn_s]), MAPS: spent}
    for hidden in plan.hidden:
        parts[_autoencoder(hidden)] = autoencoder_s(plan, ctx, maps, hidden)
    for hidden in plan.hidden:
        parts[_together(hidden)] = spent + parts[_autoencoder(hidden)]
    sizes = {"model": plan.model, "clients": clients, "map_height": maps.shape[1], "map_width": maps.shape[2]}
    return [{**sizes, "part": part, **Times(tuple(s.tolist())).columns()} for part, s in parts.items()]


def group_maps(
    plan: MapsPlan, defense: CAMAutoencoder, ctx: Context, members: np.ndarray, clients: int, repeats: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """(maps [k, h, w] of these of the K clients, seconds of drawing their rows, seconds of the maps [repeats]).

    The rows lie where they were drawn, and are gone when this returns.
    """
    telemetry = ctx.backend.telemetry
    telemetry.drain()
    updates, _ = synthetic_updates(ctx.backend, ctx.layout, clients, seed=plan.seed, clients=members)
    draw_s = _stage_s(ctx, "synthetic")
    spent = np.zeros(repeats)
    for repeat in range(repeats):
        maps = defense.heat_maps(updates, ctx)
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


def _parts(plan: MapsPlan) -> list[str]:
    return [DRAWING, MAPS, *map(_autoencoder, plan.hidden), *map(_together, plan.hidden)]


def _table(plan: MapsPlan, rows: Sequence[dict[str, Any]]) -> str:
    found = {(row["clients"], row["part"]): Times(tuple(row["wall_s"])) for row in rows}
    head = ["K", *(f"{part} (s)" for part in _parts(plan))]
    return markdown_table(
        head, [[f"{k:,}", *(str(found[k, part]) for part in _parts(plan))] for k in plan.clients]
    )


def _growth(plan: MapsPlan, rows: Sequence[dict[str, Any]]) -> str:
    cells = []
    for part in _parts(plan):
        line = [row for row in rows if row["part"] == part]
        sizes, medians = [row["clients"] for row in line], [row["median_s"] for row in line]
        cells.append([part, growth_text(sizes, medians)])
    return markdown_table(
        ["part", "seconds grow with K to the power of (95 % interval), last two sizes"], cells
    )


def _notes(plan: MapsPlan, rows: Sequence[dict[str, Any]]) -> str:
    channels, height, width = plan.image
    probe = "as it is" if plan.probe_size is None else f"enlarged to {plan.probe_size} x {plan.probe_size}"
    reported = "; ".join(f"{k} users {bare} s and {both} s" for k, (bare, both) in REPORTED_S.items())
    return (
        f"{plan.model} on one {channels} x {height} x {width} image, {probe}; maps of {rows[0]['map_height']} x"
        f" {rows[0]['map_width']}. Median of {plan.repeats} (first to third quartile). Networks are drawn {plan.rows}"
        " at a time, mapped and dropped; drawing is timed once, apart. Maps are a stage of tasks over row blocks, an"
        " autoencoder is one task on all K maps.\n\n"
        f"Reported (LayerCAM-AE, figure 16, ResNet-50 on the paper's machine), without and with autoencoder:"
        f" {reported}."
    )


def _figure(plan: MapsPlan, rows: Sequence[dict[str, Any]]) -> Figure:
    from raysim.report.figures import AMBER, BLUE, GREEN, QUIET, RED

    def line(part: str) -> dict[str, Any]:
        found = [row for row in rows if row["part"] == part]
        ends = [(row["median_s"] - row["q1_s"], row["q3_s"] - row["median_s"]) for row in found]
        medians = [row["median_s"] for row in found]
        return {"x": [row["clients"] for row in found], "y": medians, "yerr": np.array(ends).T}

    figure, (whole, parts) = panels(2)
    styles = list(zip((RED, AMBER, GREEN), "sD^", strict=True))
    for axes, name in ((whole, _together), (parts, _autoencoder)):
        axes.errorbar(**line(MAPS), color=BLUE, marker="o", ms=5, lw=1.4, capsize=3, label=MAPS)
        for place, hidden in enumerate(plan.hidden):
            colour, mark = styles[place % len(styles)]
            axes.errorbar(
                **line(name(hidden)), color=colour, marker=mark, ms=5, lw=1.4, capsize=3, label=name(hidden)
            )
        axes.set_ylabel("seconds a round")
    parts.errorbar(
        **line(DRAWING),
        color=QUIET,
        marker="x",
        ls=":",
        ms=5,
        label="drawing the networks (not in any round)",
    )
    finish(whole, title="Maps with and without autoencoder", x="clients, K", ticks=plan.clients, log="")
    finish(parts, title="The parts", x="clients, K", ticks=plan.clients, log="y")
    return figure
