"""From rows of the update matrix to models that can be run.

One module serves all rows: its parameters and buffers are views of one flat vector, so the next client's model
is one addition, global vector plus row, into that vector.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from raysim.backends import devices
from raysim.backends.base import ACCELERATED, Reference
from raysim.errors import unknown_name
from raysim.matrix.layout import Layout
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory

if TYPE_CHECKING:
    import torch
    from torch import nn


Answer = TypeVar("Answer")


def map_models(
    updates: Updates,
    stage: str,
    fn: Callable[..., Answer],
    factory: ModelFactory,
    global_vector: np.ndarray | Reference,
    *shared: object,
) -> list[Answer]:
    """[fn(model, *shared)] of every client's model [K]: one task per row block, as Updates.map_rows.

    global_vector [d + b] float32 or a reference to it.
    """
    return updates.map_row_stage(models_stage(stage, fn, factory, updates.layout, global_vector, *shared))


def models_stage(
    name: str,
    fn: Callable[..., Answer],
    factory: ModelFactory,
    layout: Layout,
    global_vector: np.ndarray | Reference,
    *shared: object,
    key: tuple[Hashable, ...] | None = None,
) -> RowStage[Answer]:
    """fn(model, *shared) of every client's model, as work on single rows.

    The parameters are put in place tile by tile, so that no row is ever copied together; fn must be done with the
    model when it returns. Runs on GPUs if there are any: fn finds the model on `devices.here()`.
    """
    work = partial(_on_models, fn, factory, layout)
    return RowStage(name, work, (global_vector, *shared), needs=ACCELERATED, key=key)


def _on_models(
    fn: Callable[..., Answer],
    factory: ModelFactory,
    layout: Layout,
    rows: np.ndarray,
    tiles: Sequence[np.ndarray],
    global_vector: np.ndarray,
    *shared: object,
) -> list[Answer]:
    pieces = [[tile[row] for tile in tiles] for row in rows]
    return [fn(model, *shared) for model in bound_models(factory, layout, global_vector, pieces)]


def bound_models(
    factory: ModelFactory,
    layout: Layout,
    global_vector: np.ndarray,
    rows: Iterable[Sequence[np.ndarray]],
) -> Iterator[nn.Module]:
    """The model of every row, one after the other, in eval mode and without gradients, on `devices.here()`.

    global_vector [d + b] float32; a row comes in pieces of consecutive columns, [d + b] in all, or [d]: the buffers are
    then the global model's. It is the same module each time, holding the next client's state: be done with one
    before taking the next. Neither argument is changed.
    """
    import torch

    model = _uninitialised(factory).eval().requires_grad_(False).to(devices.here())
    state = np.empty(
        len(global_vector), np.float32
    )  # numpy asks for huge pages: far fewer faults than torch.empty
    source = torch.from_numpy(state)
    vector = devices.tensor(state) if devices.accelerated() else source
    layout.bind(model, vector)
    for pieces in rows:
        stop = 0
        for piece in pieces:
            here = slice(stop, stop + len(piece))
            np.add(global_vector[here], piece, out=state[here])
            stop = here.stop
        state[stop:] = global_vector[stop:]
        if vector is not source:
            vector.copy_(source)
        layout.read_counters(model, vector)
        yield model


def _uninitialised(factory: ModelFactory) -> nn.Module:
    """A module whose random initial parameters were not drawn, because they are about to be overwritten.

    Drawing them takes longer than using the model once (23.5 million for a ResNet-50).
    """
    from torch.overrides import TorchFunctionMode

    class NoDraws(TorchFunctionMode):
        def __torch_function__(
            self,
            func: Callable[..., object],
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            named = kwargs or {}
            drawn = getattr(func, "__module__", "") == "torch.nn.init"
            if drawn or getattr(func, "__name__", "") in ("normal_", "uniform_"):
                return named["tensor"] if "tensor" in named else args[0]
            return func(*args, **named)

    with NoDraws():
        return factory.build()


def bound_model(factory: ModelFactory, layout: Layout, vector: np.ndarray) -> nn.Module:
    """The model that a vector [d + b] describes, in eval mode and without gradients."""
    return next(bound_models(factory, layout, vector, [[np.zeros(layout.num_columns, np.float32)]]))


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
