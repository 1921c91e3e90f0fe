"""A3FL: a trigger that is adapted, round by round, to a model that is unlearning it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from attacks.trigger import StampedBackdoor, poison_batch
from attacks.triggers import square, stamp
from raysim.attack import ClientContext, Visibility
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset, normalise
from raysim.options import Count, NotNegative, Positive, PositiveInt

if TYPE_CHECKING:
    import torch

CORNER = 2
"""Row and column of the trigger's upper left pixel (published code)."""

GREY = 0.5
"""What every pixel of the trigger begins with."""

LEVELS = 255
"""Steps between black and white that a stored image can hold."""

BATCH = 64
"""Samples of one step of the trigger."""

HARDENING = {
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "batch_size": BATCH,
}
"""How the hardened model is trained (published code)."""


@dataclass(frozen=True)
class A3FL(StampedBackdoor):
    """Backdoor by a trigger whose pixels are optimised against the global model and one hardened against it.

    Zhang et al., "A3FL: adversarially adaptive backdoor attacks to federated learning" (NeurIPS 2023). Each round the
    attackers search the trigger d that minimises L(w_G(x + d), target) + balance * sim * L(w'(x + d), target): w' is w_G
    trained for `harden_epochs` on their samples with the trigger and their true labels, as if to unlearn it, sim its cosine
    with w_G. Steps of `trigger_rate` follow the sign of the gradient; pixels stay images, and end on one of 256 levels.
    Then they train as every stamped backdoor, with this trigger, and success is measured with it.

    The trigger is a square of patch_size pixels, its upper left corner at (2, 2), grey at first. It is searched on at most
    `samples` of what the attackers hold together, anew in every round from grey, so that it depends on the global model
    alone; every attacker finds the same one. The published code goes on from the round before, keeps normalised pixels
    between -2 and 2, and takes for sim the mean cosine of the convolutions' last gradients. How many passes there are, and
    hardenings between them, is this project's choice of what a round may cost.
    """

    paper = "Zhang et al., NeurIPS 2023"
    patch_size: PositiveInt = 5
    """Side of the trigger in pixels (published code: 5)."""
    trigger_epochs: PositiveInt = 20
    """Passes over the samples that search the trigger (published code: 200)."""
    trigger_rate: Positive = 0.02
    """Step of a pixel between 0, black, and 1, white (published code: 0.01, of normalised pixels)."""
    harden_every: PositiveInt = 5
    """Passes from one hardening to the next; there is none before the first pass (published code: 1)."""
    harden_epochs: Count = 5
    """Epochs of a hardening (published code: 5); 0: the trigger is searched against w_G alone."""
    balance: NotNegative = 0.01
    """Weight of the hardened model's loss (lambda_0; published code: 0.01)."""
    samples: PositiveInt = 256
    """Samples, of what all attackers hold, that the trigger is searched on, at most."""

    @property
    def visibility(self) -> Visibility:
        """COLLUDING, because the attackers search one trigger on what they hold together."""
        return Visibility.COLLUDING

    def pixels(self, height: int, width: int, ctx: ClientContext | None) -> np.ndarray:
        """The square, for every client and for the test."""
        return square(height, width, self.patch_size, CORNER)

    def poisoning(
        self, data: ClientData, ctx: ClientContext
    ) -> Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]:
        """Batches stamped with the round's trigger."""
        height, width = data.images.shape[2:]
        value = in_model(self.trigger(ctx), ctx)
        ctx.trainer.first_fit_s = None  # the seconds of training are those of the fit that follows
        pixels = self.pixels(height, width, ctx)
        return partial(poison_batch, pixels, value, self.target, self.poisoned_data_rate)

    def adapt_test(self, test: Dataset, ctx: ClientContext) -> Dataset:
        """The test's images with the round's trigger."""
        images, value = test.images.copy(), self.trigger(ctx)
        height, width = images.shape[2:]
        pixels = self.pixels(height, width, None)
        stamp(images, pixels, np.round(value * LEVELS) if images.dtype == np.uint8 else value)
        return Dataset(images, test.labels)

    def trigger(self, ctx: ClientContext) -> np.ndarray:
        """The round's trigger [C, m] float32, its pixels from 0, black, to 1, white."""
        import torch

        pool, draw = ctx.colluders_data(), ctx.shared_generator("a3fl", ctx.round)
        chosen = draw.choice(len(pool), min(self.samples, len(pool)), replace=False)
        data = pool.take(np.sort(chosen))
        channels, height, width = data.images.shape[1:]
        pixels = self.pixels(height, width, ctx)
        value = np.full((channels, len(pixels)), GREY)
        hardened, weight = ctx.global_vector, 0.0
        for epoch in range(self.trigger_epochs):
            if self.harden_epochs and epoch and epoch % self.harden_every == 0:
                hardened = self.harden(data, pixels, in_model(value, ctx), ctx, epoch)
                weight = self.balance * cosine(
                    hardened[: ctx.layout.dim], ctx.global_vector[: ctx.layout.dim]
                )
            for first in range(0, len(data), BATCH):
                images = data.images[first : first + BATCH].copy()
                stamp(images, pixels, in_model(value, ctx))
                batch = torch.from_numpy(images).to(ctx.trainer.device)
                slope = gradient_at(batch, pixels, ctx.global_vector, self.target, ctx)
                if weight:
                    slope = slope + weight * gradient_at(batch, pixels, hardened, self.target, ctx)
                value = np.clip(value - self.trigger_rate * np.sign(slope), 0.0, 1.0)
        final: np.ndarray = (np.round(value * LEVELS) / LEVELS).astype(np.float32)
        return final

    def harden(
        self, data: ClientData, pixels: np.ndarray, value: np.ndarray, ctx: ClientContext, epoch: int
    ) -> np.ndarray:
        """w' [d + b]: the global model trained on stamped samples with their true labels."""
        images = data.images.copy()
        stamp(images, pixels, value)
        key = ("attack", "harden", ctx.round, epoch)
        stamped = ClientData(images, data.labels)
        moved = ctx.trainer.fit(
            ctx.global_vector,
            stamped,
            key,
            seed=ctx.seed,
            epochs=self.harden_epochs,
            **HARDENING,  # type: ignore[arg-type]
        )
        hardened: np.ndarray = ctx.global_vector + moved
        return hardened


def in_model(value: np.ndarray, ctx: ClientContext) -> np.ndarray:
    """Pixels [C, m] from 0 to 1 as they are in the clients' normalised images, float32."""
    images = value[None, :, :, None].astype(np.float32)
    normalised: np.ndarray = normalise(images, ctx.mean, ctx.std).numpy()[0, :, :, 0]
    return normalised


def gradient_at(
    images: torch.Tensor, pixels: np.ndarray, vector: np.ndarray, target: int, ctx: ClientContext
) -> np.ndarray:
    """The gradient [C, m] of the mean loss for the target with respect to pixels that all images [B, C, H, W] share."""
    import torch
    from torch.nn import functional

    trainer = ctx.trainer
    trainer.load(vector)
    trainer.model.eval()
    shown = images.clone().requires_grad_()
    labels = torch.full((len(images),), target, device=images.device)
    loss = functional.cross_entropy(trainer.model(shown), labels)
    (slope,) = torch.autograd.grad(loss, shown)
    found: np.ndarray = slope.sum(0)[:, pixels[:, 0], pixels[:, 1]].cpu().numpy()
    return found


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """The cosine of two vectors; 0 if one is 0."""
    first, second = one.astype(np.float64), other.astype(np.float64)
    both = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / both if both > 0 else 0.0
