"""The networks that experiments train, by name.

`MODELS` is the table; `build_model` makes one. A network returns pre-softmax class scores [B, num_classes]
for images [B, channels, height, width]. To add one, write a build function in the module of its family, whose
first line describes it, and a line in the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from raysim.errors import ConfigError, unknown_name
from raysim.models import cnn, flare, resnet, torchvision_nets, vgg
from raysim.options import arguments
from raysim.rng import torch_randomness

__all__ = ["MODELS", "Architecture", "build_model"]


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and the two of its layers that defenses look at, by module path.

    `build(num_classes, input_shape, **options)` draws torch's default initialisation from its global
    generator: call it through `build_model`. `cam_layer` gives the activation map [B, m, h, w] that class
    activation maps weigh. `head` is the last linear layer: `{head}.weight` is [num_classes, h], and its input
    of h numbers is the penultimate-layer representation.
    """

    build: Callable[..., nn.Module]
    cam_layer: str
    head: str = "head"

    @property
    def description(self) -> str:
        """One line on what the network is."""
        return (self.build.__doc__ or "").partition("\n")[0]

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that `build` takes."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


MODELS: Mapping[str, Architecture] = {
    "digits_cnn": Architecture(cnn.digits_cnn, "features.relu2"),
    "flare_fmnist": Architecture(flare.flare_fmnist, "features.relu2"),
    "flare_cifar": Architecture(flare.flare_cifar, "features.relu3"),
    "flare_kather": Architecture(flare.flare_kather, "features.relu5"),
    "leaf_cnn": Architecture(cnn.leaf_cnn, "features.relu2"),
    "lenet_wang": Architecture(cnn.lenet_wang, "features.relu2"),
    "vgg9": Architecture(vgg.vgg9, "features.relu8"),
    "dba_mnist_cnn": Architecture(cnn.dba_mnist_cnn, "features.relu2"),
    "dba_resnet18": Architecture(resnet.dba_resnet18, "layer4.1"),
    "resnet18_cifar": Architecture(resnet.resnet18_cifar, "layer4.1"),
    "resnet18": Architecture(torchvision_nets.resnet18, "layer4.1", "fc"),
    "resnet50": Architecture(torchvision_nets.resnet50, "layer4.2", "fc"),
    "mobilenet_v3_large": Architecture(torchvision_nets.mobilenet_v3_large, "features.16", "classifier.3"),
    "regnet_y_800mf": Architecture(torchvision_nets.regnet_y_800mf, "trunk_output", "fc"),
}


def build_model(
    name: str, *, num_classes: int, input_shape: Sequence[int], seed: int, **options: object
) -> nn.Module:
    """The network `name`, initialised from `seed`; torch's default generator is left as it was.

    `input_shape` is (channels, height, width) of one image. Raises ConfigError for an unknown name or option,
    an option out of range, and images that the network cannot take.
    """
    if name not in MODELS:
        raise unknown_name("model.name", name, MODELS)
    architecture = MODELS[name]
    for option in options:
        if option not in architecture.options:
            raise unknown_name(f"model.{option}", option, architecture.options)
    shape = tuple(int(size) for size in input_shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ConfigError(
            "input_shape", "must be channels, height, width, each at least 1", tuple(input_shape)
        )
    if num_classes < 1:
        raise ConfigError("num_classes", "must be at least 1", num_classes)
    given = arguments(architecture.build, options, "model.")
    with torch_randomness(seed, "model"):
        return architecture.build(num_classes, shape, **given)
