"""Constrain-and-scale: a backdoor whose loss also rewards looking normal, scaled to replace the model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from attacks.poison_training import TrainingOptions
from attacks.trigger import Trigger
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.options import Fraction, Positive

if TYPE_CHECKING:
    from raysim.training.local import LocalTrainer


@dataclass(frozen=True)
class ConstrainAndScale(Trigger):
    """Trigger backdoor trained on alpha * task loss + (1 - alpha) * anomaly, then scaled up.

    Bagdasaryan et al., "How to backdoor federated learning" (AISTATS 2020). The anomaly's gradient is added as a
    formula; at w = w_G it is zero. With norm_bound kappa = S / ||w - w_G||; a zero update stays.
    Published code: that of the paper and of DBA (hence FedGrad) sets alpha to 1, so that the constraint has no
    effect, and FLPoison's anomaly term carries no gradient: alpha=1 here. Both divide the learning rate by ten
    after .2 and .8 of the epochs, in effect only where those are whole numbers: for 10, decay_epochs [2, 8].
    """

    paper = "Bagdasaryan et al., AISTATS 2020"
    scale: float | None = None
    """Factor kappa on the update (FedGrad: 100 on MNIST, 20 on CIFAR-10); null: the cohort's examples
    over the attacker's own."""
    alpha: Fraction = 0.5
    """Weight of the task loss; the anomaly term has 1 - alpha. The paper names none; 0.5 is this
    project's."""
    anomaly: Literal["l2", "cosine"] = "l2"
    """Anomaly term: `l2`, ||w - w_G||, or `cosine`, 1 - cos(w, w_G)."""
    norm_bound: Positive | None = None
    """Euclidean norm S that the update is scaled to (the paper's train-and-scale); null: `scale` decides."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm_bound is not None and self.scale is not None:
            raise ConfigError("norm_bound", "excludes scale: one of the two must be null", self.norm_bound)

    def training_options(self, ctx: ClientContext) -> TrainingOptions:
        """With the anomaly's gradient mixed in after each backward pass."""
        mix: Callable[[LocalTrainer], None] = partial(mix_anomaly, self.alpha, self.anomaly)
        return {**super().training_options(ctx), "after_backward": mix}

    def scale_factor(self, update: np.ndarray, data: ClientData, ctx: ClientContext) -> float:
        """kappa, or what takes the update to the norm bound."""
        if self.norm_bound is None:
            return super().scale_factor(update, data, ctx)
        norm = float(np.linalg.norm(update[: ctx.layout.dim].astype(np.float64)))
        return self.norm_bound / norm if norm else 1.0


def mix_anomaly(alpha: float, anomaly: str, trainer: LocalTrainer) -> None:
    """gradient <- alpha * gradient + (1 - alpha) * anomaly's gradient with respect to w, in place."""
    w, start, gradient = trainer.parameters, trainer.global_vector[: trainer.layout.dim], trainer.gradient
    gradient.mul_(alpha)
    if anomaly == "l2":
        displacement = w - start
        norm = math.sqrt(float(displacement.double().square().sum()) + 1e-12)
        gradient.add_(displacement, alpha=(1 - alpha) / norm)
        return
    norms = float(w.double().norm()), float(start.double().norm())
    if min(norms) > 0:
        cosine = float(w.double() @ start.double()) / (norms[0] * norms[1])
        gradient.add_(start, alpha=-(1 - alpha) / (norms[0] * norms[1]))
        gradient.add_(w, alpha=(1 - alpha) * cosine / norms[0] ** 2)
