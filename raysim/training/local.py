"""Local training: a resident model bound to one flat vector, so that a step moves all parameters at once.

This is one client after another, with every hook an attack may want; `cohort_training` trains many at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysim import rng
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset, normalise
from raysim.matrix.layout import Layout
from raysim.models.factory import ModelFactory
from raysim.training.augmentation import augmented
from raysim.training.flat_optimizer import FlatOptimizer
from raysim.training.recipe import TrainingRecipe


class LocalTrainer:
    """A resident model bound to one flat vector [d + b], and the local training loop.

    vector [d + b] holds the model; gradient [d] holds its parameters' gradient after each backward pass.
    """

    def __init__(
        self, factory: ModelFactory, layout: Layout, recipe: TrainingRecipe, device: str = "cpu"
    ) -> None:
        self.factory, self.layout, self.recipe, self.device = factory, layout, recipe, device
        self.model: nn.Module = factory.build().to(device)
        self.vector = torch.zeros(layout.num_columns, device=device)
        self.gradient = torch.zeros(layout.dim, device=device)
        self.global_vector = torch.zeros_like(self.vector)
        layout.bind(self.model, self.vector)
        for entry, parameter in zip(layout.parameters, self.model.parameters(), strict=True):
            parameter.grad = self.gradient[entry.start : entry.stop].view(entry.shape)
        self.train_loss = float("nan")
        """Mean loss over the steps of the last `fit`."""
        self.first_fit_s: float | None = None
        """Seconds of the first `fit` since this was None."""
        self._needs_two = least_samples(self.model) > 1

    @property
    def parameters(self) -> torch.Tensor:
        """The parameters [d], a view of the vector."""
        return self.vector[: self.layout.dim]

    def load(self, vector: np.ndarray | torch.Tensor) -> None:
        """Copy a global vector [d + b] into the model."""
        source = (
            vector if isinstance(vector, torch.Tensor) else torch.from_numpy(np.array(vector, np.float32))
        )
        self.vector.copy_(source)
        self.layout.read_counters(self.model, self.vector)

    def fit(
        self,
        global_vector: np.ndarray,
        data: ClientData,
        key: tuple[rng.Key, ...],
        *,
        seed: int,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        momentum: float | None = None,
        weight_decay: float | None = None,
        optimizer: str | None = None,
        decay_epochs: Sequence[int] = (),
        on_batch: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
        | None = None,
        loss_fn: Callable[[LocalTrainer, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        after_backward: Callable[[LocalTrainer], None] | None = None,
        after_step: Callable[[LocalTrainer, int, bool], None] | None = None,
    ) -> np.ndarray:
        """Train from global_vector on data and return the update, local minus global, [d + b] float32.

        seed, key: what shuffling and dropout are keyed by. decay_epochs: the learning rate is divided by ten
        after each of these numbers of epochs. The rest overrides the recipe, or hooks in:
        on_batch(images, labels, step) -> (images, labels) before each step; loss_fn(trainer, images, labels)
        instead of cross-entropy of the model's output; after_backward(trainer) may change
        `trainer.gradient` in place; after_step(trainer, step, last) may change `trainer.parameters`.
        `trainer.global_vector` is the starting point. The recipe's augmentation comes before on_batch, the gradient of its
        proximal term before after_backward; the loss that is reported has no proximal term. A trailing batch of one sample is left out where the
        model normalises over the batch, which needs two; with a single one nothing is trained.
        """
        began = time.perf_counter()
        self.load(global_vector)
        self.global_vector.copy_(self.vector)
        self.train_loss = float("nan")
        count = len(data)
        if not count:
            return np.zeros(self.layout.num_columns, np.float32)
        images = torch.from_numpy(data.images).to(self.device)
        labels = torch.from_numpy(data.labels).to(self.device)
        size = self.recipe.batch_size if batch_size is None else batch_size
        passes = self.recipe.epochs if epochs is None else epochs
        steps = FlatOptimizer(
            self.parameters,
            self.gradient,
            optimizer or self.recipe.optimizer,
            self.recipe.learning_rate if learning_rate is None else learning_rate,
            self.recipe.momentum if momentum is None else momentum,
            self.recipe.weight_decay if weight_decay is None else weight_decay,
        )
        orders = batch_order(seed, key, count, size, passes, pairs_only=self._needs_two)
        batches = [torch.from_numpy(order).to(self.device) for order in orders]
        drops = {len(batches) // passes * epoch for epoch in decay_epochs}
        losses: list[float] = []
        self.model.train()
        with rng.torch_randomness(seed, *key, "dropout", device=self.device):
            for number, batch in enumerate(batches):
                if number in drops:
                    steps.learning_rate /= 10
                x, y = images[batch], labels[batch]
                if self.recipe.augmentation != "none":
                    draws = rng.generator(seed, *key, "augmentation", number)
                    x = augmented(x, self.recipe.augmentation, self.recipe.crop_padding, draws)
                x = channels_last(x)
                if on_batch is not None:
                    x, y = on_batch(x, y, number)
                loss = functional.cross_entropy(self.model(x), y) if loss_fn is None else loss_fn(self, x, y)
                losses.append(loss.item())
                self.gradient.zero_()
                loss.backward()
                if self.recipe.proximal_mu:
                    away = self.parameters - self.global_vector[: self.layout.dim]
                    self.gradient.add_(away, alpha=self.recipe.proximal_mu)
                if after_backward is not None:
                    after_backward(self)
                steps.step()
                if after_step is not None:
                    after_step(self, number, number == len(batches) - 1)
        self.train_loss = float(np.mean(losses)) if losses else float("nan")
        update = self.update()
        if self.first_fit_s is None:
            self.first_fit_s = time.perf_counter() - began
        return update

    def update(self) -> np.ndarray:
        """What the model has moved since `global_vector`: [d + b] float32."""
        self.layout.write_counters(self.model, self.vector)
        return (self.vector - self.global_vector).cpu().numpy()

    @torch.no_grad()
    def evaluate(
        self, dataset: Dataset, mean: Sequence[float], std: Sequence[float], batch_size: int
    ) -> np.ndarray:
        """[batches, 5] float64 of the loaded model: samples, correct, summed loss, summed label confidence, and
        samples whose logits are not all finite, which have no prediction and are never correct.
        """
        self.model.eval()
        rows = []
        for start in range(0, len(dataset), batch_size):
            part = slice(start, start + batch_size)
            logits = self.model(channels_last(normalise(dataset.images[part], mean, std).to(self.device)))
            labels = torch.from_numpy(np.array(dataset.labels[part])).to(self.device)
            log_probability = functional.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0].double()
            predicted = logits.isfinite().all(1)
            correct = ((logits.argmax(1) == labels) & predicted).sum()
            rows.append(
                (
                    len(labels),
                    correct.item(),
                    -log_probability.sum().item(),
                    log_probability.exp().sum().item(),
                    (~predicted).sum().item(),
                )
            )
        return np.array(rows, np.float64).reshape(-1, 5)


def least_samples(model: nn.Module) -> int:
    """How many samples a client needs to train at all: two where the model normalises over the batch, else one."""
    return 2 if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) else 1


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """The same images [n, C, H, W] with a pixel's channels side by side in memory; other inputs as they are.

    On a CPU the convolutions and pools of colour images then take half the time, or less.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def batch_order(
    seed: int,
    key: tuple[rng.Key, ...],
    count: int,
    batch_size: int,
    epochs: int,
    *,
    pairs_only: bool = False,
) -> list[np.ndarray]:
    """The samples of every step's batch: each epoch's own permutation of `count`, cut in order.

    pairs_only: leave out a trailing batch of one sample.
    """
    shuffle = rng.generator(seed, *key, "batches")
    starts = range(0, count - 1 if pairs_only else count, batch_size)
    return [
        order[start : start + batch_size]
        for order in (shuffle.permutation(count) for _ in range(epochs))
        for start in starts
    ]
