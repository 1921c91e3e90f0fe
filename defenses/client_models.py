"""From rows of the update matrix to models that can be run: for functions given to `Updates.map_rows`.

One module serves all rows: its parameters and buffers are views of one flat vector, so the next client's model
is one addition, global vector plus row, into that vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from raysim.context import ModelFactory
from raysim.errors import unknown_name
from raysim.layout import Layout

if TYPE_CHECKING:
    import torch
    from torch import nn


def bound_models(
    factory: ModelFactory, layout: Layout, global_vector: np.ndarray, block: np.ndarray
) -> Iterator[nn.Module]:
    """The model of every row of a block, one after the other, in eval mode and without gradients.

    global_vector [d + b] float32; block [k, d + b], or [k, d]: the buffers are then the global model's. It is
    the same module each time, holding the next client's state: be done with one before taking the next.
    Neither argument is changed.
    """
    import torch

    model = factory.build().eval().requires_grad_(False)
    vector = torch.from_numpy(np.array(global_vector, np.float32))
    layout.bind(model, vector)
    width = block.shape[1]
    for row in block:
        np.add(global_vector[:width], row, out=vector.numpy()[:width])
        layout.read_counters(model, vector)
        yield model


def bound_model(factory: ModelFactory, layout: Layout, vector: np.ndarray) -> nn.Module:
    """The model that a vector [d + b] describes, in eval mode and without gradients."""
    return next(bound_models(factory, layout, vector, np.zeros((1, layout.num_columns), np.float32)))


def head_inputs(model: nn.Module, head: str, images: torch.Tensor) -> torch.Tensor:
    """Penultimate-layer representations [m, h]: what enters the last linear layer, for images [m, C, H, W].

    `head` is the layer's module path; ConfigError with the nearest one when there is none. Call it on a model
    in eval mode.
    """
    import torch

    layers = dict(model.named_modules())
    if head not in layers:
        raise unknown_name("model.head", head, layers)
    entered: list[torch.Tensor] = []
    hook = layers[head].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    try:
        with torch.no_grad():
            model(images)
    finally:
        hook.remove()
    return entered[-1]
