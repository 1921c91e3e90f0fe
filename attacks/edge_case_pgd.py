"""Edge-case backdoors that stay in a ball around the global model, and the one that then replaces it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from attacks.edge_case import EdgeCase, PoisonedData
from attacks.poison_training import TrainingOptions, replacement_factor, scaled
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.options import NotNegative, Positive, PositiveFraction, PositiveInt

if TYPE_CHECKING:
    import torch

    from raysim.training.local import LocalTrainer


@dataclass(frozen=True)
class EdgeCasePGD(EdgeCase):
    """Edge-case backdoor by projected gradient descent: never further than epsilon from the global model.

    H. Wang et al. (NeurIPS 2020), after Sun et al. (arXiv 1911.07963). The radius bounds the parameters only; in round t
    it is epsilon * decay**t. The published code counts `project_every` from the first batch of each epoch, which differs
    for values above 1. FLPoison's epsilons go together with replacement.
    """

    epsilon: Positive = 2.0
    """Euclidean radius around the global parameters (FedGrad: 2 on CIFAR-10, 1 on EMNIST; FLPoison:
    0.083, 0.25)."""
    decay: PositiveFraction = 1.0
    """Factor on epsilon from round to round (published code: 0.998, against Krum and Multi-Krum only)."""
    project_every: PositiveInt = 1
    """Batches from one projection to the next (FedGrad: 1); the last batch always projects."""
    skip_first_round: bool = False
    """Whether round 0 has no projection, as in FedGrad's code."""
    proximal: NotNegative = 0.0
    """Weight of ||w - w^||^2 in the loss, w^ from honest training on the clean sample (the code's
    option: 1)."""

    def train_on_poison(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """Training on D' with projections."""
        options: TrainingOptions = self.training_options(ctx)
        if self.proximal and isinstance(data, PoisonedData):
            clean = ClientData(data.images[: data.clean], data.labels[: data.clean])
            expected = ctx.global_vector + honest_train(clean)
            options["after_backward"] = partial(pull_towards, expected[: ctx.layout.dim], self.proximal)
        if not (self.skip_first_round and ctx.round == 0):
            radius = self.epsilon * self.decay**ctx.round
            options["after_step"] = partial(project, radius, self.project_every)
        return honest_train(data, **options)


@dataclass(frozen=True)
class EdgeCasePGDReplacement(EdgeCasePGD):
    """Edge-case backdoor by projected gradient descent, scaled up to replace the global model.

    H. Wang et al. (NeurIPS 2020): u' = kappa u after edge_case_pgd; kappa by default is what undoes a data-weighted
    mean. Each of several attackers uses the whole kappa, as published, so that plain averaging overshoots by their number.
    """

    scale: Positive | None = None
    """Factor kappa on the update; null: the cohort's examples over |D'|, in every round anew, as
    published."""

    def train_on_poison(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The projected update times kappa; buffers as trained."""
        factor = replacement_factor(data, ctx) if self.scale is None else self.scale
        return scaled(super().train_on_poison(honest_train, data, ctx), factor, ctx.layout)


def project(radius: float, every: int, trainer: LocalTrainer, step: int, last: bool) -> None:
    """Put the parameters back onto the ball around where they started, after every `every` steps and the last."""
    if (step + 1) % every and not last:
        return
    start = trainer.global_vector[: trainer.layout.dim]
    displacement = trainer.parameters - start
    norm = float(displacement.double().norm())
    if norm > radius:
        trainer.parameters.copy_(start + displacement * (radius / norm))


def pull_towards(expected: np.ndarray, weight: float, trainer: LocalTrainer) -> None:
    """Add the gradient of weight * ||w - expected||^2, for `expected` [d]."""
    import torch

    goal: torch.Tensor = torch.from_numpy(expected).to(trainer.gradient)
    trainer.gradient.add_(trainer.parameters - goal, alpha=2 * weight)
