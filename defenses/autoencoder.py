"""The autoencoder that GradCAM-AE and LayerCAM-AE train on a round's heat maps, and the threshold on its errors.

One hidden layer: Linear(n, hidden), ReLU, Linear(hidden, n), Sigmoid, trained from fresh weights on the very maps
it judges: full batch, mean squared error, Adam with weight decay (both papers, and their published code, which
uses 200 steps, a hidden layer of 128, a learning rate of 1e-3 and a weight decay of 1e-5).

The steps are written out instead of going through autograd and torch.optim: on K = 100 maps of 7 x 7 pixels that
halves the time, and at 224 x 224 too, where Adam's passes over 12.9 million weights dominate.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raysim.backends import devices
from raysim.errors import ConfigError, unknown_name

Error = Literal["abs", "square"]
Deviation = Literal["population", "sample"]

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's defaults, in the papers' code too
_BLOCK = 2**15  # weights that Adam updates at a time: small enough to stay in the cache


def num_weights(n: int, hidden: int = 128) -> int:
    """Weights and biases of the autoencoder for maps of n pixels.

    >>> num_weights(224 * 224)
    12895360
    """
    return hidden * n + hidden + n * hidden + n


def reconstruct(
    maps: np.ndarray,
    *,
    hidden: int = 128,
    epochs: int = 200,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-5,
    seed: int,
) -> np.ndarray:
    """What an autoencoder trained on maps [K, n] in [0, 1] makes of them: [K, n] float32.

    Starts from torch's default initialisation of the two linear layers, drawn from `seed` alone, and takes one
    step an epoch. `weight_decay` is Adam's L2 term. Cost O(epochs K n hidden).
    """
    if maps.ndim != 2 or 0 in maps.shape:
        raise ConfigError("maps", "must be [K, n] with at least one map and one pixel", maps.shape)
    inputs = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32)).to(devices.here())
    n = maps.shape[1]
    weights, gradient = torch.empty(2, num_weights(n, hidden), device=inputs.device)
    w1, b1, w2, b2 = _layers(weights, n, hidden)
    grad_w1, grad_b1, grad_w2, grad_b2 = _layers(gradient, n, hidden)
    _initialise(weights, n, hidden, seed)
    adam = _Adam(weights, gradient, learning_rate, weight_decay)

    for _ in range(epochs):
        features = torch.addmm(b1, inputs, w1.T).relu_()
        outputs = torch.addmm(b2, features, w2.T).sigmoid_()
        delta = (outputs - inputs).mul_(2 / inputs.numel())  # of the mean squared error
        delta.mul_(1 - outputs).mul_(outputs)  # through the sigmoid
        torch.mm(delta.T, features, out=grad_w2)
        torch.sum(delta, 0, out=grad_b2)
        delta = torch.mm(delta, w2).mul_(features > 0)  # through the ReLU
        torch.mm(delta.T, inputs, out=grad_w1)
        torch.sum(delta, 0, out=grad_b1)
        adam.step()

    features = torch.addmm(b1, inputs, w1.T).relu_()
    return torch.addmm(b2, features, w2.T).sigmoid_().cpu().numpy()


def reconstruction_errors(maps: np.ndarray, reconstruction: np.ndarray, error: Error = "abs") -> np.ndarray:
    """Each map's mean error over its pixels, [K, n] twice -> [K] float64.

    `abs` is the mean absolute error of the paper's text, `square` the mean squared error of its published code.
    """
    difference = np.asarray(maps, np.float64) - np.asarray(reconstruction, np.float64)
    if error == "abs":
        errors: np.ndarray = np.abs(difference).mean(axis=1)
        return errors
    if error == "square":
        errors = np.square(difference).mean(axis=1)
        return errors
    raise unknown_name("error", error, ("abs", "square"))


def error_threshold(errors: np.ndarray, beta: float, std: Deviation = "population") -> float:
    """mean(errors) + beta std(errors): a map whose error lies above is judged malicious.

    `population` divides by K (the paper), `sample` by K - 1 (the published code). A single map deviates from
    nothing: its threshold is its own error. Of K maps with c equal large errors among equal small ones, none can
    lie above when beta >= sqrt((K - c) / c), times sqrt((K - 1) / K) for `sample`.
    """
    if std not in ("population", "sample"):
        raise unknown_name("std", std, ("population", "sample"))
    errors = np.asarray(errors, np.float64)
    ddof = int(std == "sample" and len(errors) > 1)
    return float(errors.mean() + beta * errors.std(ddof=ddof))


class _Adam:
    """torch.optim.Adam's arithmetic on one flat vector of weights, a block that fits the cache at a time."""

    def __init__(self, weights: Tensor, gradient: Tensor, learning_rate: float, weight_decay: float) -> None:
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.steps = 0
        mean, variance = torch.zeros(2, len(weights), device=weights.device)
        vectors = (weights, gradient, mean, variance)
        block = _BLOCK if weights.is_cpu else len(weights)
        self.blocks = list(zip(*(vector.split(block) for vector in vectors), strict=True))

    def step(self) -> None:
        """One update of the weights by the gradient that stands in its vector, which it spoils."""
        self.steps += 1
        rate = self.learning_rate / (1 - _BETA1**self.steps)
        correction = math.sqrt(1 - _BETA2**self.steps)
        for weights, gradient, mean, variance in self.blocks:
            gradient.add_(weights, alpha=self.weight_decay)
            mean.lerp_(gradient, 1 - _BETA1)
            variance.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            weights.addcdiv_(mean, variance.sqrt().div_(correction).add_(_EPSILON), value=-rate)


def _layers(flat: Tensor, n: int, hidden: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views of a flat vector: weight [hidden, n] and bias [hidden], then weight [n, hidden] and bias [n]."""
    w1, b1, w2, b2 = flat.split((hidden * n, hidden, n * hidden, n))
    return w1.view(hidden, n), b1, w2.view(n, hidden), b2


def _initialise(weights: Tensor, n: int, hidden: int, seed: int) -> None:
    """Uniform within 1 / sqrt(inputs of the layer), as torch.nn.Linear, in the order its layers would draw.

    Drawn on the CPU: the same on every device.
    """
    generator, drawn = torch.Generator().manual_seed(seed), torch.empty(len(weights))
    for layer, inputs in zip(_layers(drawn, n, hidden), (n, n, hidden, hidden), strict=True):
        layer.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=generator)
    weights.copy_(drawn)
