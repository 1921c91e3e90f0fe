"""Neurotoxin: a backdoor planted where honest clients hardly write, so that it lasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from attacks.trigger import Trigger
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.options import PositiveFraction

if TYPE_CHECKING:
    from raysim.training.local import LocalTrainer

BATCH = 256
"""Samples of one backward pass for the own gradient."""


@dataclass(frozen=True)
class Neurotoxin(Trigger):
    """Trigger backdoor that leaves alone the parameters which benign updates move most.

    Zhang et al., "Neurotoxin: durable backdoors in federated learning" (ICML 2022): the attacker's steps are projected onto
    the parameters outside the top_share of largest |g|, and so honest clients do not write over its backdoor.

    observed: what g is: the last `global` update, w_t - w_{t-1}, as in the paper, or the gradient of the client's `own`
    clean data at w_t. The published code takes the gradient of the clean data of 30 other clients (images; 90 for its LSTM),
    which FLPoison's port, too, replaces by the attacker's own. In the run's first round there is no global update: the own
    gradient stands in. The projection puts the parameters back after each step, so that momentum and weight decay do not
    move them either; the code masks gradients. Buffers are as trained.
    """

    paper = "Zhang et al., ICML 2022"
    top_share: PositiveFraction = 0.05
    """Share of the parameters, those that benign updates move most, that are left alone (published commands:
    0.05, also 0.01 to 0.08)."""
    observed: Literal["global", "own"] = "global"
    """What tells which: the last `global` update (the paper), or the client's `own` gradient (FLPoison)."""

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """As every stamped backdoor, with some parameters held where they are."""
        if not len(data):
            return honest_train(data)
        held = most_moved(self.benign_update(data, ctx), self.top_share)
        return super().train(partial(honest_train, after_step=partial(hold, held)), data, ctx)

    def benign_update(self, data: ClientData, ctx: ClientContext) -> np.ndarray:
        """What stands for a benign update [d]."""
        if self.observed == "global" and ctx.previous_global_vector is not None:
            moved: np.ndarray = (ctx.global_vector - ctx.previous_global_vector)[: ctx.layout.dim]
            return moved
        return clean_gradient(data, ctx)


def most_moved(update: np.ndarray, share: float) -> np.ndarray:
    """Mask [d] of the floor(share * d) largest |entries| of an update [d]."""
    count = int(share * len(update))
    mask = np.zeros(len(update), bool)
    if count:
        mask[np.argpartition(-np.abs(update), count - 1)[:count]] = True
    return mask


def clean_gradient(data: ClientData, ctx: ClientContext) -> np.ndarray:
    """The gradient [d] of the mean loss on a client's data at the global model, in evaluation mode."""
    import torch
    from torch.nn import functional

    trainer = ctx.trainer
    trainer.load(ctx.global_vector)
    trainer.model.eval()
    trainer.gradient.zero_()
    for first in range(0, len(data), BATCH):
        images, labels = (
            torch.from_numpy(part[first : first + BATCH]).to(trainer.device)
            for part in (data.images, data.labels)
        )
        (functional.cross_entropy(trainer.model(images), labels, reduction="sum") / len(data)).backward()
    gradient: np.ndarray = trainer.gradient.cpu().numpy().copy()
    return gradient


def hold(mask: np.ndarray, trainer: LocalTrainer, step: int, last: bool) -> None:
    """Put the parameters of the mask [d] back to where they started."""
    import torch

    start = trainer.global_vector[: trainer.layout.dim]
    held = torch.from_numpy(mask).to(start.device)
    trainer.parameters.copy_(torch.where(held, start, trainer.parameters))
