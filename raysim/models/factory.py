"""What defenses, hosts and tasks are sent instead of a network: a recipe that builds it, and its two named layers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from raysim.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModuleFactory:
    """A picklable recipe that copies a given module; a `raysim.models.factory.ModelFactory`."""

    module: nn.Module
    cam_layer: str
    head: str

    @property
    def num_classes(self) -> int:
        """Number of outputs of the last linear layer."""
        return int(cast(Any, self.module.get_submodule(self.head)).out_features)

    def build(self) -> nn.Module:
        """A copy of the module."""
        return copy.deepcopy(self.module)


def find_layers(model: nn.Module) -> tuple[str, str]:
    """(module path of the activation map, module path of the last linear layer).

    Those of the architecture in raysim's table whose two paths the model has, unless a convolution follows its
    activation map; else the last convolution and the last `nn.Linear` in module order. ConfigError if the
    model has no `nn.Linear`; without a convolution the activation map's path is empty.
    """
    from torch import nn

    from raysim.models import MODELS

    paths = {path: number for number, (path, _) in enumerate(model.named_modules())}
    convolutions = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    linears = [path for path, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not linears:
        raise ConfigError("head", "must be given for a model without an nn.Linear", type(model).__name__)
    last_convolution = convolutions[-1] if convolutions else ""
    known = {(known.cam_layer, known.head) for known in MODELS.values()}
    fitting = [
        (cam_layer, head)
        for cam_layer, head in known
        if head in linears
        and cam_layer in paths
        and (paths[cam_layer] > paths[last_convolution] or last_convolution.startswith(f"{cam_layer}."))
    ]
    if fitting:
        return max(fitting, key=lambda pair: (paths[pair[0]], paths[pair[1]]))
    return last_convolution, linears[-1]


def check_factory(model: object) -> None:
    """ConfigError unless it has what a `raysim.models.factory.ModelFactory` has."""
    parts = ("build", "cam_layer", "head", "num_classes")
    if isinstance(model, type) or not all(hasattr(model, part) for part in parts):
        rule = "must be a torch module, or a factory with build(), cam_layer, head and num_classes"
        raise ConfigError("model", rule, model)


class ModelFactory(Protocol):
    """A picklable recipe for the network that is trained."""

    @property
    def cam_layer(self) -> str:
        """Path of the module whose output is the activation map."""

    @property
    def head(self) -> str:
        """Path of the last linear layer: parameters `{head}.weight` [C, h] and `{head}.bias` [C]."""

    @property
    def num_classes(self) -> int:
        """Number of classes C."""

    def build(self) -> nn.Module:
        """A fresh module; its parameter values are about to be overwritten."""
