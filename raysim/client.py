"""Local training, and the host that trains many clients with one resident model.

A client is its data indices and nothing else. A host (one per worker process) keeps one model bound to
one flat vector, so that loading a client is one copy and an optimizer step moves all parameters at once.
Everything a host returns is a pure function of (round, client, global vector): any host may do it, twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from raysim import rng
from raysim.attack import Attack, ClientContext, ClientData, DataPool
from raysim.context import ModelFactory, TrainingRecipe
from raysim.data.dataset import Dataset, normalise
from raysim.errors import ConfigError, RaysimError, RunError
from raysim.layout import Layout
from raysim.updates import cut

OPTIMIZERS = ("sgd", "adam", "adamw")


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
        self._needs_two = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules())

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
        `trainer.global_vector` is the starting point. A trailing batch of one sample is left out where the
        model normalises over the batch, which needs two; a client with a single one then stays where it is.
        """
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
        steps = make_optimizer(
            self.parameters,
            self.gradient,
            optimizer or self.recipe.optimizer,
            self.recipe.learning_rate if learning_rate is None else learning_rate,
            self.recipe.momentum if momentum is None else momentum,
            self.recipe.weight_decay if weight_decay is None else weight_decay,
        )
        shuffle = rng.generator(seed, *key, "batches")
        starts = range(0, count - 1 if self._needs_two else count, size)
        batches = [
            torch.from_numpy(order[start : start + size]).to(self.device)
            for order in (shuffle.permutation(count) for _ in range(passes))
            for start in starts
        ]
        drops = {len(starts) * epoch for epoch in decay_epochs}
        losses: list[float] = []
        self.model.train()
        with rng.torch_randomness(seed, *key, "dropout", device=self.device):
            for number, batch in enumerate(batches):
                if number in drops:
                    for group in steps.param_groups:
                        group["lr"] /= 10
                x, y = images[batch], labels[batch]
                if on_batch is not None:
                    x, y = on_batch(x, y, number)
                loss = functional.cross_entropy(self.model(x), y) if loss_fn is None else loss_fn(self, x, y)
                losses.append(loss.item())
                self.gradient.zero_()
                loss.backward()
                if after_backward is not None:
                    after_backward(self)
                steps.step()
                if after_step is not None:
                    after_step(self, number, number == len(batches) - 1)
        self.train_loss = float(np.mean(losses)) if losses else float("nan")
        return self.update()

    def update(self) -> np.ndarray:
        """What the model has moved since `global_vector`: [d + b] float32."""
        self.layout.write_counters(self.model, self.vector)
        return (self.vector - self.global_vector).cpu().numpy()

    @torch.no_grad()
    def evaluate(
        self, dataset: Dataset, mean: Sequence[float], std: Sequence[float], batch_size: int
    ) -> np.ndarray:
        """[batches, 4] float64 of the loaded model: samples, correct, summed loss, summed label confidence."""
        self.model.eval()
        rows = []
        for start in range(0, len(dataset), batch_size):
            part = slice(start, start + batch_size)
            logits = self.model(normalise(dataset.images[part], mean, std).to(self.device))
            labels = torch.from_numpy(np.array(dataset.labels[part])).to(self.device)
            log_probability = functional.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0].double()
            correct = (logits.argmax(1) == labels).sum()
            rows.append(
                (
                    len(labels),
                    correct.item(),
                    -log_probability.sum().item(),
                    log_probability.exp().sum().item(),
                )
            )
        return np.array(rows, np.float64).reshape(-1, 4)


def make_optimizer(
    parameters: torch.Tensor,
    gradient: torch.Tensor,
    name: str,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """torch's own optimizer on one flat parameter: the same arithmetic as on many, one call a step."""
    flat = nn.Parameter(parameters)
    flat.grad = gradient
    if name == "sgd":
        return torch.optim.SGD(
            [flat], learning_rate, momentum=momentum, weight_decay=weight_decay, foreach=False
        )
    if name == "adam":
        return torch.optim.Adam([flat], learning_rate, weight_decay=weight_decay, foreach=False)
    if name == "adamw":
        return torch.optim.AdamW([flat], learning_rate, weight_decay=weight_decay, foreach=False)
    raise ConfigError("training.optimizer.name", f"must be one of {', '.join(OPTIMIZERS)}", name)


@dataclass(frozen=True)
class Schedule:
    """When an attack is active: rounds start, start + every, ... before stop (None = to the end)."""

    start: int = 0
    stop: int | None = None
    every: int = 1

    def active(self, round: int) -> bool:
        """Whether round number `round` (from 0) is one of them."""
        return (
            round >= self.start
            and (self.stop is None or round < self.stop)
            and (round - self.start) % self.every == 0
        )


@dataclass(frozen=True)
class Campaign:
    """One attack, the clients it has compromised (sorted ids), and when it is active."""

    attack: Attack
    client_ids: np.ndarray
    schedule: Schedule = Schedule()

    def place(self, client: int) -> int | None:
        """The client's place among the compromised ones, None when it is honest."""
        position = int(np.searchsorted(self.client_ids, client))
        inside = position < len(self.client_ids) and self.client_ids[position] == client
        return position if inside else None


@dataclass(frozen=True)
class HostPlan:
    """What every host needs to know, small enough to send to each."""

    seed: int
    factory: ModelFactory
    layout: Layout
    recipe: TrainingRecipe
    lr_decay: float
    device: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    campaigns: tuple[Campaign, ...]
    bounds: tuple[int, ...]
    evaluation_batch: int


@dataclass(frozen=True)
class RoundOrder:
    """What the server says to the hosts about one round."""

    round: int
    cohort_examples: int


@dataclass(frozen=True)
class UploadMeta:
    """What the server learns of one upload without reading it. reason: why it must not be used, or empty.

    note: what an attacking client remarked about the round, for the record alone.
    """

    client: int
    num_examples: int
    train_loss: float
    reason: str = ""
    note: str = ""


class ClientHost:
    """Trains any client and evaluates any part of the test sets, with one resident model.

    images, labels: the training set; indices, offsets: the partition (CSR); tests: (images, labels) of the
    clean test set and of each triggered one.
    """

    def __init__(
        self,
        plan: HostPlan,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        offsets: np.ndarray,
        *tests: np.ndarray,
    ) -> None:
        self.plan = plan
        self.train_set = Dataset(images, labels)
        self.indices, self.offsets = indices, offsets
        self.tests = [Dataset(*pair) for pair in zip(tests[::2], tests[1::2], strict=True)]
        self.trainer = LocalTrainer(plan.factory, plan.layout, plan.recipe, plan.device)

    def train(
        self,
        order: RoundOrder,
        clients: Sequence[int],
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> tuple[Any, ...]:
        """Train these clients; one tile per column shard, the buffers' tile, and the list of UploadMeta."""
        rows = np.zeros((len(clients), self.plan.layout.num_columns), np.float32)
        metas = []
        for row, client in zip(rows, clients, strict=True):
            try:
                metas.append(self._upload(row, order, int(client), global_vector, previous))
            except RunError as error:
                raise RunError(
                    error.problem, stage=error.stage, round=order.round, client=int(client)
                ) from error
            except RaysimError:
                raise
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                raise RunError(problem, stage="train", round=order.round, client=int(client)) from error
        return (*cut(rows, self.plan.bounds), metas)

    def evaluate(self, vector: np.ndarray, which: int, first: int, last: int) -> np.ndarray:
        """Evaluate samples [first, last) of test set `which`: see LocalTrainer.evaluate."""
        test = self.tests[which]
        part = Dataset(test.images[first:last], test.labels[first:last])
        self.trainer.load(vector)
        return self.trainer.evaluate(part, self.plan.mean, self.plan.std, self.plan.evaluation_batch)

    def data_of(self, client: int) -> ClientData:
        """A client's own samples, ready for the model."""
        return self._samples(self._indices(client))

    def pool(self, clients: Sequence[int] | np.ndarray) -> DataPool:
        """What these clients hold together, in the order given; images are read and normalised on demand."""
        indices = np.concatenate([self._indices(int(client)) for client in clients])
        return DataPool(
            self.train_set.labels[indices].astype(np.int64),
            lambda positions: self._samples(indices[positions]),
        )

    def _indices(self, client: int) -> np.ndarray:
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    def _samples(self, indices: np.ndarray) -> ClientData:
        images = normalise(self.train_set.images[indices], self.plan.mean, self.plan.std).numpy()
        return ClientData(images, self.train_set.labels[indices].astype(np.int64))

    def _upload(
        self,
        row: np.ndarray,
        order: RoundOrder,
        client: int,
        global_vector: np.ndarray,
        previous: np.ndarray | None,
    ) -> UploadMeta:
        """Train one client into `row`; returns what the server needs to know of it."""
        plan = self.plan
        self.trainer.train_loss = float("nan")
        data = self.data_of(client)
        learning_rate = plan.recipe.learning_rate * plan.lr_decay**order.round
        fit = partial(
            self._fit, global_vector, key=("train", order.round, client), learning_rate=learning_rate
        )
        for campaign in plan.campaigns:
            colluder = campaign.place(client)
            if colluder is None:
                continue
            context = ClientContext(
                seed=plan.seed,
                round=order.round,
                client=client,
                colluder=colluder,
                num_colluders=len(campaign.client_ids),
                num_classes=plan.factory.num_classes,
                layout=plan.layout,
                global_vector=global_vector,
                previous_global_vector=previous,
                trainer=self.trainer,
                learning_rate=learning_rate,
                cohort_examples=order.cohort_examples,
                mean=plan.mean,
                std=plan.std,
                pool=partial(self.pool, campaign.client_ids),
            )
            if not campaign.schedule.active(order.round):
                break
            data = campaign.attack.poison_data(data, context)
            if not campaign.attack.trains:
                return UploadMeta(client, len(data), float("nan"), note="; ".join(context.notes))
            submitted = campaign.attack.train(fit, data, context)
            return replace(self._accept(row, submitted, client, len(data)), note="; ".join(context.notes))
        return self._accept(row, fit(data), client, len(data))

    def _fit(self, global_vector: np.ndarray, data: ClientData, **options: Any) -> np.ndarray:
        return self.trainer.fit(global_vector, data, options.pop("key"), seed=self.plan.seed, **options)

    def _accept(self, row: np.ndarray, submitted: Any, client: int, examples: int) -> UploadMeta:
        reason = reason_to_reject(submitted, self.plan.layout)
        if not reason:
            row[: len(submitted)] = submitted
        return UploadMeta(client, examples, self.trainer.train_loss, reason)


def reason_to_reject(submitted: Any, layout: Layout) -> str:
    """Why an upload must not reach an aggregate ("missing", "wrong shape ...", "non-finite"), or ""."""
    if submitted is None:
        return "missing"
    if not isinstance(submitted, np.ndarray) or not np.issubdtype(submitted.dtype, np.floating):
        return f"not an array of floats: {type(submitted).__name__}"
    if submitted.shape not in ((layout.dim,), (layout.num_columns,)):
        return f"wrong shape {submitted.shape}, expected ({layout.num_columns},)"
    with np.errstate(over="ignore"):
        held = submitted.astype(np.float32, copy=False)
    if not np.isfinite(held).all():
        return "non-finite"
    return ""
