"""BackdoorIndicator: plant a task of odd inputs in the global model, and distrust whoever sends it back intact.

Li and Dai, "BackdoorIndicator: leveraging OOD data for proactive backdoor detection in federated learning", USENIX Security
2024: honest training makes a model forget the planted labels, while training a backdoor to some label, itself a task of odd
inputs, keeps the planted ones of that label.

What differs here: the paper's server plants the indicator before it publishes a round's model. A defense can change the
model only through its aggregate, so that this one plants it at the end of each round for the next: in the first round
nobody is rejected, and accuracies are those of models with the indicator. Its inputs come from another data set; here each
of the server's images has its pixels (or numbers) shuffled. The published settings train for 50 or 200 epochs, at
falling rates; the loss there has the distance to the mean model, here its square.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from defenses.client_models import map_models
from raysim.backends import devices
from raysim.backends.base import ACCELERATED
from raysim.context import Context, State
from raysim.data.client_data import ClientData
from raysim.defense import Defense, Verdict, accepted_mean
from raysim.matrix.layout import Layout
from raysim.matrix.updates import Updates
from raysim.models.factory import ModelFactory
from raysim.options import NotNegative, Positive, PositiveFraction, PositiveInt
from raysim.requirement import Requirement
from raysim.training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from torch import nn

    from raysim.training.local import LocalTrainer

BATCH = 64
"""Indicator samples in a step (published code: 64)."""

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
"""Of the planting optimizer, SGD (published code)."""


@dataclass(frozen=True)
class BackdoorIndicator(Defense):
    """Data-weighted mean of the clients that forgot the indicator task; plants it again for the next round.

    The task: the server's samples, each with its numbers shuffled, and labels dealt out evenly at random; the same in every
    round. 1. Each client's model, its BatchNorm statistics replaced by those of the planting, answers the task. A client
    is flagged if, for some label, at least `threshold` of the samples of that label are answered with it; the
    largest such share is its score. 2. The mean over the others. 3. From there the server trains `epochs` on the task, with
    proximity / 2 |w - w_mean|^2 added to the loss, and what that moves is added to the aggregate. BatchNorm's statistics are
    not: clients get those of the mean.

    In the first round nothing is planted yet, and nobody is flagged. If the mean does not move the model, the indicator
    is still in it and is not planted again. State: {"planted": bool, "buffers": those of the planting, float32 [b]}.
    """

    paper = "Li and Dai, USENIX Security 2024"
    on_buffers = (
        "it asks what is left of a task planted in the newest global model, and clients began from older ones"
    )
    needs = frozenset({Requirement.SERVER_DATA, Requirement.SERVER_TRAINING, Requirement.INFERENCE})
    threshold: PositiveFraction = 0.95
    """Share of a label's indicator samples that must not be answered with it (published settings: 0.95 or 0.85)."""
    epochs: PositiveInt = 50
    """Passes over the task when it is planted (published settings: 50 or 200)."""
    learning_rate: Positive = 0.005
    """Learning rate of the planting (published settings: 0.0005 to 0.005)."""
    proximity: NotNegative = 0.1
    """Weight mu of the distance to the mean model while planting (published settings: 0.1 or 0.4, of the distance, not
    squared)."""

    def init(self, ctx: Context) -> State:
        """Nothing is planted."""
        return {"planted": False, "buffers": ctx.global_vector[ctx.layout.dim :].copy()}

    def apply(self, state: State, updates: Updates, ctx: Context) -> tuple[Verdict, State]:
        """Ask, average, plant."""
        task = ctx.put(indicator_task(ctx))
        answers = map_models(
            updates, "inference", largest_share, ctx.model, ctx.published, state["buffers"], task
        )
        scores = np.array(answers, np.float64)
        flagged = (scores >= self.threshold) & state["planted"]
        mean, weights = accepted_mean(updates, flagged)
        threshold = self.threshold if state["planted"] else None
        if not mean.any():
            return Verdict(mean, weights, scores, flagged, threshold=threshold), state
        after = ctx.global_vector.copy()
        after[: updates.dim] += mean
        after[updates.dim :] += updates.combine_buffers(weights)
        moved = ctx.run(
            "server_update",
            plant,
            self,
            ctx.model,
            ctx.layout,
            after,
            task,
            ctx.seed,
            ctx.round,
            needs=ACCELERATED,
        )
        state = {"planted": True, "buffers": (after + moved)[updates.dim :]}
        aggregate = mean + moved[: updates.dim]
        return Verdict(aggregate, weights, scores, flagged, threshold=threshold), state


def indicator_task(ctx: Context) -> ClientData:
    """The server's samples, the numbers of each shuffled, and labels of all classes, as many of each as can be."""
    data, draw = ctx.require_server_data(), ctx.lasting_generator("indicator")
    flat = data.images.reshape(len(data), -1)
    shuffled = draw.permuted(flat, axis=1).reshape(data.images.shape)
    labels = draw.permutation(np.arange(len(data)) % ctx.model.num_classes)
    return ClientData(shuffled, labels.astype(np.int64))


def largest_share(model: nn.Module, buffers: np.ndarray, task: ClientData) -> float:
    """The largest share of a label's samples that the model, with these floating buffers [b], answers with that label."""
    import torch

    first = 0
    for buffer in model.buffers():
        last = first + buffer.numel()
        if buffer.is_floating_point():
            buffer.copy_(torch.from_numpy(buffers[first:last].reshape(tuple(buffer.shape)).copy()))
        first = last
    right = np.zeros(len(task), bool)
    with torch.no_grad():
        for start in range(0, len(task), BATCH):
            part = slice(start, start + BATCH)
            images = torch.from_numpy(np.array(task.images[part])).to(devices.here())
            right[part] = model(images).argmax(1).cpu().numpy() == task.labels[part]
    return max(float(right[task.labels == label].mean()) for label in np.unique(task.labels))


def plant(
    defense: BackdoorIndicator,
    factory: ModelFactory,
    layout: Layout,
    start: np.ndarray,
    task: ClientData,
    seed: int,
    round: int,
) -> np.ndarray:
    """What training on the task moves [d + b] from a global vector `start`."""
    from raysim.training.local import LocalTrainer

    trainer = LocalTrainer(factory, layout, TrainingRecipe(), devices.here())
    own = ClientData(np.array(task.images), np.array(task.labels))  # torch wants them writable
    return trainer.fit(
        start,
        own,
        ("server_update", round),
        seed=seed,
        epochs=defense.epochs,
        batch_size=BATCH,
        learning_rate=defense.learning_rate,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        optimizer="sgd",
        after_backward=partial(pull_back, defense.proximity),
    )


def pull_back(proximity: float, trainer: LocalTrainer) -> None:
    """Add the gradient of proximity / 2 |w - start|^2."""
    start = trainer.global_vector[: trainer.layout.dim]
    trainer.gradient.add_(trainer.parameters - start, alpha=proximity)
