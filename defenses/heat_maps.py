"""Heat maps of a round's models: what the class-activation-map defenses look at, one map [h, w] a client.

The server shows one image to every client's network, with the client's own buffers (running statistics of
BatchNorm), and keeps where it looked. GradCAM-AE and LayerCAM-AE (Zheng et al.), section "LayerCAM-based process".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from defenses.class_activation import Method, Normalise, model_maps, resize_maps
from defenses.client_models import map_models, models_stage
from raysim.array_checks import finite
from raysim.backends import devices
from raysim.backends.base import InProcessBackend
from raysim.context import Context, ServerData, State
from raysim.defense import Defense
from raysim.errors import ConfigError, unknown_name
from raysim.matrix.layout import Layout
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory, ModuleFactory, check_factory, find_layers
from raysim.options import PositiveInt
from raysim.requirement import Requirement


@dataclass(frozen=True)
class Probe:
    """An image [C, H, W] float32 and what every network is asked about it.

    side: the image is enlarged to side x side by bilinear interpolation (None: left as it is). target: the class
    to explain (None: each network's own most likely one). size: of the maps: `native` (that of the activation
    map, nothing resized), `input` (that of the enlarged image) or a side in pixels. normalise: see `model_maps`.
    """

    image: np.ndarray
    method: Method
    target: int | None = None
    side: int | None = None
    size: int | str = "native"
    normalise: Normalise = "minmax"

    def images(self) -> torch.Tensor:
        """The enlarged image as a batch [1, C, H, W]."""
        batch = torch.from_numpy(np.array(self.image, np.float32))[None]
        if self.side is None:
            return batch
        return nn.functional.interpolate(
            batch, size=(self.side, self.side), mode="bilinear", align_corners=False
        )

    def maps(self, model: nn.Module, cam_layer: str, images: torch.Tensor) -> np.ndarray:
        """One model's map [h, w] float32; `images` as from `images()`."""
        maps = model_maps(
            model, cam_layer, images, method=self.method, target=self.target, normalise=self.normalise
        )
        if self.size == "input":
            maps = resize_maps(maps, (images.shape[2], images.shape[3]), self.normalise)
        elif self.size != "native":
            maps = resize_maps(maps, (int(self.size), int(self.size)), self.normalise)
        return maps[0].cpu().numpy()


def check_size(key: str, size: int | str) -> None:
    """Refuse a map size that is neither `native`, `input` nor a positive side."""
    if isinstance(size, str):
        if size not in ("native", "input"):
            raise unknown_name(key, size, ("native", "input"))
    elif not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
        rule = "must be native, input, or a side of at least 1 pixel"
        near = max(round(size), 1) if isinstance(size, int | float) and np.isfinite(size) else None
        raise ConfigError(key, rule, size, near)


def client_map(model: nn.Module, cam_layer: str, probe: Probe) -> np.ndarray:
    """One client's map [h, w] of the probe; for map_models."""
    return probe.maps(model, cam_layer, probe.images().to(devices.here()))


def class_activation_maps(
    model: ModelFactory | nn.Module,
    deltas: np.ndarray,
    global_parameters: np.ndarray,
    image: np.ndarray,
    method: Method = "layercam",
    target: int | None = None,
    size: int | str = "native",
    *,
    cam_layer: str | None = None,
    normalise: Normalise = "minmax",
) -> np.ndarray:
    """Maps [K, h, w] float32 of one image [C, H, W] for K clients' updates, computed in this process.

    The same arithmetic as the defenses', bit for bit. model: a recipe for the network, or a module (copied, never
    changed), whose layer `cam_layer` (a module path; default: see find_layers) is then weighed. deltas [K, d] or,
    with the changes of the buffers, [K, d + b]; global_parameters [d] or [d + b]. Buffers that are not given are
    the model's own. method: `layercam` or `gradcam`. target: the class explained; None is each client's own most
    likely one. size: `native`, `input` (H x W), or a side in pixels. normalise: `minmax` for maps in [0, 1], `none`
    for maps as the equations of GradCAM and LayerCAM give them.

    Raises ConfigError for a wrong option or shape and for an image or global parameters that are not finite, RunError if the network cannot take the image.
    """
    check_size("size", size)
    if normalise not in ("minmax", "none"):
        raise unknown_name("normalise", normalise, ("minmax", "none"))
    factory = model
    if isinstance(factory, nn.Module):
        factory = ModuleFactory(factory, cam_layer or find_layers(factory)[0], "")
    else:
        check_factory(factory)
    built = factory.build()
    layout = Layout.of(built)
    vector = layout.vector(built)
    widths = (layout.dim, layout.num_columns)
    given = np.shape(deltas)
    if len(given) != 2 or given[0] < 1 or given[1] not in widths:
        raise ConfigError("deltas", f"must be [K, d] or [K, d + b], with d, d + b = {widths}", given)
    if np.shape(global_parameters) not in [(width,) for width in widths]:
        rule = f"must be [d] or [d + b], with d, d + b = {widths}"
        raise ConfigError("global_parameters", rule, np.shape(global_parameters))
    if np.ndim(image) != 3:
        raise ConfigError("image", "must be [C, H, W]", np.shape(image))
    vector[: len(global_parameters)] = finite("global_parameters", global_parameters)
    rows = np.zeros((len(deltas), layout.num_columns), np.float32)
    rows[:, : given[1]] = deltas
    updates = Updates.from_array(rows, InProcessBackend(), layout=layout)
    probe = Probe(finite("image", image), method, target, size=size, normalise=normalise)
    return np.stack(map_models(updates, "cam", client_map, factory, vector, factory.cam_layer, probe))


@dataclass(frozen=True)
class HeatMapDefense(Defense):
    """Base of the defenses on heat maps: which image, which class, which size.

    The papers "randomly pick an image"; their code shows one fixed file, normalised by its own mean and deviation, where
    server images are normalised like the model's training data, and enlarges it to 224, as networks made for ImageNet
    need: from 32 x 32 their last activation map is one pixel, which says nothing and is refused. Native maps are fast: 7 x
    7 pixels for a ResNet at 224, not 50,176; scores are not those of enlarged maps.

    Unscaled maps (normalise=none) are as equations 1 and 2 (GCAMA) and 9 and 10 (LayerCAM-AE) give them, cut off at 1e6.
    The papers' text has no scaling, their tables imply it, so it is the default: the attackers' errors in table 6 are
    .214 ± .004 for all three, where noised models' raw maps have errors of up to 1e6 beside a decoder that ends in a
    sigmoid; and at beta = .5 (table 7) FPR is .319, where errors as large as that would lift the threshold above every
    benign one. Without the step noise is seen by the size of a map alone, and a model that hides its map's size is not.
    """

    on_buffers = (
        "it looks at heat maps of the clients' models, and the newest global model plus an update is none "
        "that a client had"
    )

    method: ClassVar[Method]
    needs = frozenset({Requirement.SERVER_DATA, Requirement.CLASS_ACTIVATION, Requirement.INFERENCE})

    probe: Literal["per_round", "fixed"] = "per_round"
    """Server image shown: a random one, `per_round` (the papers), or always the first, `fixed` (their
    code)."""
    probe_size: PositiveInt | None = None
    """Side in pixels to which the image is enlarged (the code: 224); null: left as it is."""
    target: Literal["label", "argmax"] = "label"
    """Class explained: the image's own `label`, one for all clients (the papers), or each client's most likely one, `argmax`
    (the code)."""
    map_size: PositiveInt | Literal["native", "input"] = "native"
    """Size of the maps: `native` (the activation map's), `input` (the enlarged image's: the code), or a
    side in pixels."""
    normalise: Normalise = "minmax"
    """Each map shifted and scaled to [0, 1], `minmax` (the code), or left as the papers' equations give it, `none`."""

    def init(self, ctx: Context) -> State:
        """Nothing remembered. Refuses a probe that the network cannot take, and maps of a single pixel."""
        image = ctx.require_server_data(1).images[0]
        shape = ctx.run("probe", _native_shape, ctx.model, Probe(image, self.method, side=self.probe_size))
        if max(shape) == 1:
            rule = f"must give activation maps of more than one pixel; images are {image.shape[1:]} now"
            raise ConfigError("probe_size", rule, self.probe_size, 224)
        return {}

    def row_stage(self, ctx: Context) -> RowStage[np.ndarray]:
        """One map [h, w] a client, stage "cam". The image, and so the stage's key, are the round's."""
        held: ServerData = ctx.require_server_data(1)
        index = int(ctx.generator("probe").integers(len(held))) if self.probe == "per_round" else 0
        target = int(held.labels[index]) if self.target == "label" else None
        probe = Probe(held.images[index], self.method, target, self.probe_size, self.map_size, self.normalise)
        key = (self.method, index, target, self.probe_size, self.map_size, self.normalise)
        shared = (ctx.model.cam_layer, probe)
        return models_stage("cam", client_map, ctx.model, ctx.layout, ctx.published, *shared, key=key)

    def heat_maps(self, updates: Updates, ctx: Context) -> np.ndarray:
        """The clients' maps [K, h, w] float32, stage "cam": one task per row block. O(K passes)."""
        return np.stack(updates.map_row_stage(self.row_stage(ctx)))


def _native_shape(factory: ModelFactory, probe: Probe) -> tuple[int, ...]:
    try:
        return probe.maps(factory.build(), factory.cam_layer, probe.images()).shape
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError("probe_size", f"must be a size the network takes ({reason})", probe.side) from error
