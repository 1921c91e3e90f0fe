"""Several small models trained at once: their parameters stacked, one pass through every layer for all of them.

A small network's step is mostly the cost of calling its operators; here each is called once for g clients.
The models share nothing, so the gradient of the summed losses holds every client's own. Each client takes
exactly the steps it would take alone, with the same batches in the same order; only rounding differs.

Measured on a CPU, one thread: with maps in channels-last order a step takes about half the time that
`torch.func.vmap` of the same network takes, which stacks clients as grouped convolutions too, channels first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysim import rng
from raysim.data.client_data import ClientData
from raysim.training.flat_optimizer import FlatOptimizer
from raysim.training.local import LocalTrainer, batch_order

CHANNELWISE = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d)
"""Layers without parameters that treat every channel alike, so that clients' channels can lie side by side."""

MOST_TOGETHER = 10
"""Clients in one group at most: beyond it little is gained, and groups are what workers share out."""

GROUP_BYTES = 2**23
"""What one step of a group may touch: beyond a processor's cache the gain turns into a loss."""

MOST_PARAMETERS = 2**17
"""Larger models spend their steps on their weights rather than on calls, and gain nothing from company."""


class CohortTrainer:
    """Trains honest clients together, by the recipe of a LocalTrainer; for the models that `obstacle` lets pass."""

    def __init__(self, trainer: LocalTrainer) -> None:
        self.trainer = trainer
        self.layers = leaf_layers(trainer.model)

    def fit(
        self,
        global_vector: np.ndarray,
        data: Sequence[ClientData],
        keys: Sequence[tuple[rng.Key, ...]],
        *,
        seed: int,
        learning_rate: float,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train g clients from global_vector; their updates [g, d] float32 and mean losses [g] float64.

        data [g]: each client's samples; seed, keys [g]: what each client's shuffling is keyed by. A client
        without samples stays where it is, with loss nan.
        """
        recipe, layout, device = self.trainer.recipe, self.trainer.layout, self.trainer.device
        images = torch.from_numpy(np.concatenate([own.images for own in data])).to(device)
        labels = torch.from_numpy(np.concatenate([own.labels for own in data])).to(device)
        counts = [len(own) for own in data]
        offsets = np.cumsum([0, *counts[:-1]])
        batches = [
            [offset + batch for batch in batch_order(seed, key, count, recipe.batch_size, recipe.epochs)]
            for offset, count, key in zip(offsets, counts, keys, strict=True)
        ]
        # Most steps first: clients that have finished are then the last rows, and drop out.
        order = sorted(range(len(counts)), key=lambda client: -len(batches[client]))
        batches = [batches[client] for client in order]
        start = torch.from_numpy(np.array(global_vector[: layout.dim], np.float32)).to(device)
        vectors = start.repeat(len(counts), 1)
        gradients = torch.zeros_like(vectors)
        steps = FlatOptimizer(
            vectors, gradients, recipe.optimizer, learning_rate, recipe.momentum, recipe.weight_decay
        )
        losses = torch.full((len(batches[0]), len(counts)), torch.nan, device=device)
        names = [entry.name for entry in layout.parameters]
        leaves: list[torch.Tensor] = []
        active = -1
        for number in range(len(batches[0])):
            due = [own[number] for own in batches if number < len(own)]
            if len(due) != active:
                active = len(due)
                leaves = [
                    vectors[:active, entry.start : entry.stop].view(-1, *entry.shape).requires_grad_()
                    for entry in layout.parameters
                ]
            index, weights = (torch.from_numpy(array).to(device) for array in padded(due))
            logits = stacked_forward(self.layers, dict(zip(names, leaves, strict=True)), images[index.T])
            loss = (functional.cross_entropy(logits, labels[index], reduction="none") * weights).sum(1)
            losses[number, :active] = loss.detach()
            slopes = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
            for entry, slope in zip(layout.parameters, slopes, strict=True):
                gradients[:active, entry.start : entry.stop].view(slope.shape).copy_(slope)
            if recipe.proximal_mu:
                with torch.no_grad():
                    gradients[:active].add_(vectors[:active] - start, alpha=recipe.proximal_mu)
            steps.step(active)
        updates = np.empty(vectors.shape, np.float32)
        updates[order] = (vectors - start).cpu().numpy()
        means = np.full(len(counts), np.nan)
        for client, own, column in zip(order, batches, losses.T.double().cpu().numpy(), strict=True):
            if own:
                means[client] = column[: len(own)].mean()
        return updates, means


def stacks(steps: np.ndarray, size: int) -> list[np.ndarray]:
    """Clients by their numbers of steps [n] in stacks of `size`, the longest together: ascending positions, stack by stack.

    A stack's time is that of its longest client, or nearly. Of equally long ones, those that come first are together.

    >>> [stack.tolist() for stack in stacks(np.array([2, 9, 1, 8, 2]), 2)]
    [[1, 3], [0, 4], [2]]
    """
    order = np.argsort(-steps, kind="stable")
    return [np.sort(order[first : first + size]) for first in range(0, len(order), size)]


def padded(batches: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Batches of different sizes as one: samples [g, w] int64 and their weights [g, w] float32.

    A sample weighs 1 / (its batch's size). Shorter batches repeat their first sample with weight 0.
    """
    index = np.empty((len(batches), max(map(len, batches))), np.int64)
    weights = np.zeros(index.shape, np.float32)
    for row, share, batch in zip(index, weights, batches, strict=True):
        row[: len(batch)] = batch
        row[len(batch) :] = batch[0]
        share[: len(batch)] = 1 / len(batch)
    return index, weights


def stacked_forward(
    layers: Sequence[tuple[str, nn.Module]], parameters: dict[str, torch.Tensor], images: torch.Tensor
) -> torch.Tensor:
    """Scores [g, classes, w] of g models for images [w, g, C, H, W]; parameters: name -> [g, *shape].

    Maps hold the clients' channels side by side, [w, g C, H, W], channels last; behind nn.Flatten, [g, h, w].
    """
    group = images.shape[1]
    x = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    for name, layer in layers:
        if isinstance(layer, nn.Conv2d):
            weight = parameters[f"{name}.weight"].flatten(0, 1).contiguous(memory_format=torch.channels_last)
            bias = None if layer.bias is None else parameters[f"{name}.bias"].flatten()
            x = functional.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation, group)
        elif isinstance(layer, nn.Linear):
            weight = parameters[f"{name}.weight"]
            if layer.bias is None:
                x = torch.bmm(weight, x)
            else:
                x = torch.baddbmm(parameters[f"{name}.bias"][:, :, None], weight, x)
        elif isinstance(layer, nn.Flatten):
            x = x.reshape(len(x), group, -1).permute(1, 2, 0)
        else:
            x = layer(x)
    return x


def leaf_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers of a (nested) nn.Sequential in the order they are applied, with their paths."""
    return [
        (name, layer)
        for name, layer in model.named_modules(remove_duplicate=False)
        if type(layer) is not nn.Sequential
    ]


def obstacle(model: nn.Module) -> str:
    """Why clients with this model cannot train together as they would alone, or "".

    What can: nn.Sequential of plain convolutions, ReLU and pools, one Flatten, then linear layers and ReLU.
    """
    if type(model) is not nn.Sequential:
        return f"{type(model).__name__} is not an nn.Sequential"
    layers = leaf_layers(model)
    if len({id(layer) for _, layer in layers}) < len(layers):
        return "it applies one layer twice"
    flat = False
    for name, layer in layers:
        kind = type(layer)
        if type(layer) is nn.Flatten and not flat and (layer.start_dim, layer.end_dim) == (1, -1):
            flat = True
        elif kind is nn.Conv2d and not flat and layer.groups == 1 and layer.padding_mode == "zeros":
            continue
        elif not (kind is nn.Linear if flat else kind in CHANNELWISE) and kind is not nn.ReLU:
            return f"its layer {name} is {kind.__name__}"
    return "" if flat else "it has no nn.Flatten"


def step_bytes(model: nn.Module, input_shape: Sequence[int], batch_size: int) -> int:
    """What one client's training step touches: activations of a batch, parameters and gradients, in float32.

    Found with one image of zeros: torch's meta device, which computes shapes alone, takes more than a second to import.
    """
    parameters = list(model.parameters())
    x = torch.zeros(1, *input_shape, device=parameters[0].device if parameters else None)
    activations = x.numel()
    with torch.no_grad():
        for _, layer in leaf_layers(model):
            x = layer(x)
            activations += x.numel()
    return 4 * (batch_size * activations + 2 * sum(tensor.numel() for tensor in parameters))


def group_size(cohort: int, model: nn.Module, input_shape: Sequence[int], batch_size: int) -> int:
    """How many of a cohort's clients train together on a CPU; 1 if that is not faster or not possible.

    As many as one step's memory lets GROUP_BYTES hold, MOST_TOGETHER at most, and at least four groups, so
    that workers can share them out.
    """
    if (
        len(input_shape) != 3
        or obstacle(model)
        or sum(tensor.numel() for tensor in model.parameters()) > MOST_PARAMETERS
    ):
        return 1
    fitting = GROUP_BYTES // step_bytes(model, input_shape, batch_size)
    return max(1, min(fitting, MOST_TOGETHER, -(-cohort // 4)))
