"""The three networks of FLARE (Wang et al., AsiaCCS 2022, appendix C).

The input of `head` is the penultimate-layer representation. All return pre-softmax class scores.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from raysim.models.layers import Shape, Width, flat_features, scaled, stack


def flare_fmnist(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """FLARE's Fashion-MNIST network (table 6): two 5x5 convolutions and a layer of 128, with dropout.

    3,382,346 parameters on 28x28 grey images with 10 classes.
    """
    channels, hidden = scaled(width, 64, 128)
    features = stack(
        conv1=nn.Conv2d(input_shape[0], channels, 5),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(channels, channels, 5),
        relu2=nn.ReLU(),
        dropout=nn.Dropout(0.25),
        flatten=nn.Flatten(),
    )
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("flare_fmnist", features, input_shape), hidden),
        relu=nn.ReLU(),
        dropout=nn.Dropout(0.5),
        head=nn.Linear(hidden, num_classes),
    )


def flare_cifar(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """FLARE's CIFAR-10 network (table 7): three 3x3 convolutions and a linear layer of 128.

    109,834 parameters on 32x32 colour images with 10 classes. No activation follows the layer of 128.
    """
    channels, hidden = scaled(width, 64, 128)
    features = _convolutions([input_shape[0], channels, channels, channels], padding=0)
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("flare_cifar", features, input_shape), hidden),
        head=nn.Linear(hidden, num_classes),
    )


def flare_kather(num_classes: int, input_shape: Shape, *, width: Width = 1.0) -> nn.Module:
    """FLARE's network for Kather's histology images (table 8): five 3x3 convolutions, a layer of 128.

    449,736 parameters on 128x128 colour images with 8 classes. Table 8 gives the fifth convolution 64 filters
    and 128 input channels; the shapes around it fit only 128 filters on 64 channels, which is what stands
    here. No activation follows the layer of 128.
    """
    channels, last, hidden = scaled(width, 64, 128, 128)
    features = _convolutions([input_shape[0], *[channels] * 4, last], padding=1)
    return stack(
        features=features,
        hidden=nn.Linear(flat_features("flare_kather", features, input_shape), hidden),
        head=nn.Linear(hidden, num_classes),
    )


def _convolutions(channels: list[int], padding: int) -> nn.Sequential:
    """For each step from one channel count to the next: a 3x3 convolution, ReLU and a pool that halves."""
    layers: dict[str, nn.Module] = {}
    for number, (before, after) in enumerate(pairwise(channels), start=1):
        layers[f"conv{number}"] = nn.Conv2d(before, after, 3, padding=padding)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"pool{number}"] = nn.MaxPool2d(2)
    return stack(**layers, flatten=nn.Flatten())
