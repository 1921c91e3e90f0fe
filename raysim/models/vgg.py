"""VGG-9, the CIFAR-10 network of the edge-case attack and of FedGrad. Returns pre-softmax class scores."""

from __future__ import annotations

from torch import nn

from raysim.models.layers import Shape, Width, flat_features, scaled, stack

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # a pool that halves follows each


def vgg9(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """VGG-9 without normalisation: eight 3x3 convolutions, five pools, one linear layer.

    9,225,610 parameters on 32x32 colour images with 10 classes (Wang et al., NeurIPS 2020).

    """
    layers: dict[str, nn.Module] = {}
    before = input_shape[0]
    number = 0
    for stage, filters in enumerate(_STAGES, start=1):
        for after in scaled(width, *filters):
            number += 1
            layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=1)
            layers[f"relu{number}"] = nn.ReLU()
            before = after
        layers[f"pool{stage}"] = nn.MaxPool2d(2)
    features = stack(**layers, flatten=nn.Flatten())
    return stack(features=features, head=nn.Linear(flat_features("vgg9", features, input_shape), num_classes))
