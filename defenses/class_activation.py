"""Class activation maps: where in an image a network found its answer.

GradCAM (Selvaraju et al., ICCV 2017) and LayerCAM (Jiang et al., TIP 2021), in the form that GradCAM-AE and
LayerCAM-AE use them, with the scaling of the `pytorch-grad-cam` package that their published scripts call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from raysim.errors import ConfigError, unknown_name

Method = Literal["gradcam", "layercam"]

Normalise = Literal["minmax", "none"]
"""Whether each map is shifted and scaled to [0, 1], `minmax`, or left as the papers' equations give it, `none`."""

CEILING = 1e6
"""Largest value of a map that is not scaled: exploded weights give more, or no number at all."""

SMALL = 16
"""Pixels up to which a convolution of one image is faster as a plain product."""

SKINNY = 4096
"""Values of its unfolded input up to which that product is faster as weights times input than the other way round."""


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(sum_m mean_ij(g^m) A^m): one weight a channel. [B, m, h, w] twice -> [B, h, w]."""
    weights = gradients.mean(dim=(2, 3))
    return torch.einsum("bm,bmhw->bhw", weights, activations).relu()


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(sum_m ReLU(g^m) * A^m): one weight a channel and pixel. [B, m, h, w] twice -> [B, h, w].

    The LayerCAM-AE paper drops the channel index of its weights; this is the published code and Jiang et al.
    """
    return (gradients.relu() * activations).sum(dim=1).relu()


_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gradcam": gradcam, "layercam": layercam}


@torch.inference_mode(False)
@torch.enable_grad()
def model_maps(
    model: nn.Module,
    cam_layer: str,
    images: Tensor,
    *,
    method: Method,
    target: int | None,
    normalise: Normalise = "minmax",
) -> Tensor:
    """One model's maps [B, h, w] of images [B, C, H, W], at the size of the activation map they weigh.

    The class whose score is explained is `target`, or with None each image's own most likely class. The score is
    the network's output, which must be the pre-softmax score: after a log-softmax its gradient would carry every
    other class too. Each map is shifted and scaled to [0, 1] on its own; a map that is not finite, which exploded
    weights give, becomes zero. One forward pass in eval mode: without gradient up to `cam_layer`, whose output in
    its last call is the activation map; then the gradient of the rest alone. The model is left as it was. The same
    inside `torch.no_grad()` and `torch.inference_mode()`.

    Raises ConfigError for an unknown method or layer, a layer whose output is not an activation map, and a target
    outside the network's classes.
    """
    if method not in _METHODS:
        raise unknown_name("method", method, _METHODS)
    activations, scores = _forward(model, cam_layer, images.clone() if images.is_inference() else images)
    if target is None:
        classes = scores.detach().argmax(dim=1)
    elif 0 <= target < scores.shape[1]:
        classes = torch.full((len(scores),), target, device=scores.device)
    else:
        raise ConfigError("target", f"must be a class from 0 to {scores.shape[1] - 1}", target)
    explained = scores.gather(1, classes[:, None]).sum()  # images are independent: one gradient serves all
    (gradients,) = torch.autograd.grad(explained, activations)
    maps = _METHODS[method](activations.detach(), gradients)
    return rescale(maps) if normalise == "minmax" else bounded(maps)


def resize_maps(maps: Tensor, size: tuple[int, int], normalise: Normalise = "minmax") -> Tensor:
    """Maps [B, h, w] resized to (height, width) by bilinear interpolation; `minmax`: and scaled to [0, 1] again."""
    resized = nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)
    return rescale(resized[:, 0]) if normalise == "minmax" else resized[:, 0]


def bounded(maps: Tensor) -> Tensor:
    """Maps cut off at CEILING, which stands for what is not a number, too: an exploded model's error is then large.

    As zeros such maps would pass for ones that are reconstructed well.

    >>> bounded(torch.tensor([[[0.5, 3.0, float("nan"), float("inf")]]])).tolist()
    [[[0.5, 3.0, 1000000.0, 1000000.0]]]
    """
    return maps.nan_to_num(nan=CEILING, posinf=CEILING).clamp(max=CEILING)


def rescale(maps: Tensor) -> Tensor:
    """Each map [h, w] of [B, h, w] shifted to minimum 0 and scaled to maximum 1; a constant map gives zeros.

    >>> rescale(torch.tensor([[[1.0, 2.0], [3.0, 5.0]], [[2.0, 2.0], [2.0, float("nan")]]])).tolist()
    [[[0.0, 0.25], [0.5, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    """
    shifted = maps - maps.amin(dim=(1, 2), keepdim=True)
    scaled = shifted / (1e-7 + shifted.amax(dim=(1, 2), keepdim=True))
    return scaled.nan_to_num(nan=0.0)


def _forward(model: nn.Module, cam_layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """The layer's activations [B, m, h, w], a leaf of the graph, and the class scores [B, C] that depend on it."""
    try:
        layer = model.get_submodule(cam_layer)
    except AttributeError:
        raise unknown_name("cam_layer", cam_layer, dict(model.named_modules())) from None
    captured: list[Tensor] = []

    def start_graph(module: nn.Module, inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise ConfigError("cam_layer", "must name a layer whose output is [B, m, h, w]", cam_layer)
        captured.append(output.detach().clone().requires_grad_())
        return captured[
            -1
        ].clone()  # what follows may overwrite its input in place; the leaf keeps the values

    modules = list(model.modules())  # a walk through a deep network takes as long as a layer
    with _frozen(modules), _small_convolutions(modules if images.is_cpu else ()):
        hook = layer.register_forward_hook(start_graph)
        try:
            scores = model(images)
        finally:
            hook.remove()
    if not captured:
        raise ConfigError("cam_layer", "must name a layer that the network's forward pass calls", cam_layer)
    return captured[-1], scores


@contextmanager
def _frozen(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Eval mode and no gradient to any parameter inside the block; each module and parameter as before after."""
    training = [module for module in modules if module.training]
    parameters = [parameter for module in modules for parameter in module._parameters.values()]
    learning = [parameter for parameter in parameters if parameter is not None and parameter.requires_grad]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _small_convolutions(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Inside the block, convolutions to at most SMALL pixels are one product of the unfolded input and the weights.

    torch's own form of that product is up to 2.5 times slower for so few columns, and deep layers of a ResNet work on
    2 x 2 to 4 x 4 pixels where images have 32 x 32. Equal up to rounding.
    """
    convolutions = [module for module in modules if type(module) is nn.Conv2d and _plain(module)]
    try:
        for module in convolutions:
            module.__dict__["forward"] = partial(_convolve, module)
        yield
    finally:
        for module in convolutions:
            module.__dict__.pop("forward", None)


def _plain(module: nn.Conv2d) -> bool:
    """Whether the product below is this convolution."""
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _convolve(module: nn.Conv2d, images: Tensor) -> Tensor:
    """module(images), by a product if its output is small."""
    if images.dim() != 4 or len(images) != 1 or images.shape[2] * images.shape[3] > 4 * SMALL:
        return nn.Conv2d.forward(module, images)
    padding = module.padding
    assert not isinstance(padding, str), "seen to by _plain"
    height, width = (
        (
            images.shape[2 + axis]
            + 2 * padding[axis]
            - module.dilation[axis] * (module.kernel_size[axis] - 1)
            - 1
        )
        // module.stride[axis]
        + 1
        for axis in (0, 1)
    )
    if not 1 < height * width <= SMALL:
        return nn.Conv2d.forward(module, images)
    if module.kernel_size == module.stride == (1, 1) and padding == (0, 0):
        columns = images.flatten(2)
    else:
        columns = nn.functional.unfold(images, module.kernel_size, module.dilation, padding, module.stride)
    weight, inputs = module.weight.flatten(1), columns[0].T.contiguous()
    if inputs.numel() <= SKINNY:
        product = weight @ inputs.T
        if module.bias is not None:
            product += module.bias[:, None]
    else:
        product = nn.functional.linear(inputs, weight, module.bias).T
    # Contiguous, for strides that look like channels-last would make the next convolution reorder its weights.
    return product.contiguous().view(1, -1, height, width)
