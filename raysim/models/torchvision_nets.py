"""The four networks of the class-activation-map papers, built by torchvision with a head of `num_classes`.

Always randomly initialised: the published scripts of those papers start from ImageNet weights and keep the
head of 1,000 classes. All return pre-softmax class scores, take colour images of any size, and halve it five
times: on 32x32 images the last activation map is a single pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from raysim.errors import ConfigError
from raysim.models.layers import NormKind, Shape, Width, norm_layer
from raysim.models.torchvision_compat import import_torchvision


def resnet18(num_classes: int, input_shape: Shape, *, norm: NormKind = "batch") -> nn.Module:
    """ResNet-18 with the ImageNet stem (torchvision): 11,181,642 parameters with 10 classes."""
    return _build("resnet18", num_classes, input_shape, norm_layer=norm_layer(norm))


def resnet50(num_classes: int, input_shape: Shape, *, norm: NormKind = "batch") -> nn.Module:
    """ResNet-50 with the ImageNet stem (torchvision): 23,528,522 parameters with 10 classes."""
    return _build("resnet50", num_classes, input_shape, norm_layer=norm_layer(norm))


def regnet_y_800mf(num_classes: int, input_shape: Shape, *, norm: NormKind = "batch") -> nn.Module:
    """RegNetY-800MF (torchvision): 5,655,362 parameters with 10 classes."""
    return _build("regnet_y_800mf", num_classes, input_shape, norm_layer=norm_layer(norm))


def mobilenet_v3_large(
    num_classes: int, input_shape: Shape, *, norm: NormKind = "batch", width: Width = 1.0
) -> nn.Module:
    """MobileNetV3-Large (torchvision): 4,214,842 parameters with 10 classes.

    `width` is torchvision's own width multiplier, which rounds channel counts to multiples of 8.
    """
    batch = partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)  # torchvision's default for this network
    norms = norm_layer(norm, batch)
    return _build("mobilenet_v3_large", num_classes, input_shape, norm_layer=norms, width_mult=width)


def _build(name: str, num_classes: int, shape: Shape, **options: object) -> nn.Module:
    if shape[0] != 3:
        raise ConfigError(
            "model.name", f"must fit the data; {name} takes 3 channels and data has {shape[0]}", name
        )
    constructor: Callable[..., nn.Module] = getattr(import_torchvision().models, name)
    return constructor(weights=None, num_classes=num_classes, **options)
