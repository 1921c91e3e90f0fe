"""What the hand-written networks share: named stacks of layers, widths, norms, the size of flattened features."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from annotated_types import Gt, doc
from torch import nn

from raysim.errors import ConfigError

Shape = tuple[int, int, int]  # channels, height, width

Width = Annotated[float, Gt(0), doc("Factor on all channels and hidden layers, rounded, at least 1 each.")]
"""The option `width` of networks."""

NormKind = Annotated[
    Literal["batch", "group"],
    doc("Normalisation: BatchNorm, or GroupNorm of 32 groups, which has no buffers."),
]
"""The option `norm` of networks."""


def stack(**layers: nn.Module) -> nn.Sequential:
    """Layers applied in the order given, each under its own name."""
    return nn.Sequential(OrderedDict(layers))


def scaled(width: float, *channels: int) -> list[int]:
    """The channel counts times `width`, rounded, at least 1 each.

    >>> scaled(0.25, 32, 64, 2)
    [8, 16, 1]
    """
    return [max(1, round(count * width)) for count in channels]


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups (Wu and He, ECCV 2018), or the largest power of 2 that the channels allow."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def norm_layer(
    norm: NormKind, batch: Callable[..., nn.Module] = nn.BatchNorm2d
) -> Callable[[int], nn.Module]:
    """What makes the normalisation `norm`, `batch` or `group`, for a number of channels."""
    return {"batch": batch, "group": group_norm}[norm]


def flat_features(model: str, features: nn.Module, shape: Shape) -> int:
    """How many numbers `features` makes of one image; refuses images that its layers shrink to nothing.

    Found with one image of zeros: torch's meta device, which computes shapes alone, takes more than a second to import.
    """
    features.eval()  # dropout would draw from torch's generator, batch norm remember the image
    try:
        with torch.no_grad():
            output: torch.Tensor = features(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise ConfigError(
            "model.name", f"must fit the data; its images of shape {shape} are too small", model
        ) from error
    features.train()
    return output.numel()
