"""Backdoors by a stamped trigger: the base of all of them, and the unconstrained one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from attacks.poison_training import PoisonTraining, check_class, replacement_factor, scaled
from attacks.triggers import corner_patch, dba_strips, stamp, triggered, white
from raysim.attack import ClientContext
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.options import Positive, PositiveFraction, PositiveInt

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StampedBackdoor(PoisonTraining):
    """Base: stamp a trigger and the target label on the first samples of each batch, train, and scale the update."""

    target: int = 2
    """Label that the attacker wants for stamped images."""
    poisoned_data_rate: PositiveFraction = 5 / 64
    """Share of each batch that is stamped, rounded, at least one (DBA: 5/64 on CIFAR-10, 20/64 on MNIST)."""
    scale: Positive | None = 1.0
    """Factor on the update; null: the cohort's examples over the attacker's own (model replacement)."""
    scale_buffers: bool = False
    """Whether BatchNorm's statistics are scaled too, as DBA's code does; a scaled variance may turn
    negative."""
    segment: int | None = None
    """Length of DBA's strips in pixels (FLPoison: 8); null: by the image's width (triggers.dba_strips)."""
    gap: int | None = None
    """Pixels between DBA's strips (FLPoison: 2); null: by the image's width (triggers.dba_strips)."""

    def check(self, setting: Setting) -> None:
        """Inputs must be images; the target must be a class."""
        setting.require_images(type(self).__name__)
        check_class("target", self.target, setting)

    def pixels(self, height: int, width: int, ctx: ClientContext | None) -> np.ndarray:
        """The pattern [m, 2] that a client stamps, or that success is measured with (ctx None)."""
        return np.concatenate(dba_strips(height, width, self.segment, self.gap))

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The scaled update of training on batches that are partly stamped."""
        update = honest_train(data, on_batch=self.poisoning(data, ctx), **self.training_options(ctx))
        return scaled(update, self.scale_factor(update, data, ctx), ctx.layout, buffers=self.scale_buffers)

    def poisoning(
        self, data: ClientData, ctx: ClientContext
    ) -> Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]:
        """What makes a batch of the client's data partly stamped: an `on_batch` of local training."""
        channels, height, width = data.images.shape[1:]
        return partial(
            poison_batch,
            self.pixels(height, width, ctx),
            white(channels, ctx),
            self.target,
            self.poisoned_data_rate,
        )

    def scale_factor(self, update: np.ndarray, data: ClientData, ctx: ClientContext) -> float:
        """What the update is multiplied by."""
        return replacement_factor(data, ctx) if self.scale is None else self.scale

    def triggered_test(self, test: Dataset) -> Dataset | None:
        """Stamped test images, without those that belong to the target anyway."""
        height, width = test.images.shape[2:]
        return triggered(test, self.pixels(height, width, None), self.target)


@dataclass(frozen=True)
class Trigger(StampedBackdoor):
    """Backdoor by a trigger stamped on a share of each batch, nothing else constrained.

    The unconstrained attack of FedGrad's table 1 (after Sun et al., arXiv 1911.07963): MNIST
    poisoned_data_rate 5/64, CIFAR 12/64, scale 1; the paper's column calls the rate PDF.
    """

    paper = "Sun et al., arXiv 1911.07963, 2019"
    pattern: Literal["dba", "corner"] = "dba"
    """Trigger: `dba`, the four strips of DBA (FedGrad's code), or `corner`, a white square in the lower
    right."""
    patch_size: PositiveInt = 3
    """Side of the corner's square in pixels."""

    def pixels(self, height: int, width: int, ctx: ClientContext | None) -> np.ndarray:
        """The whole pattern, for every client and for the test."""
        if self.pattern == "corner":
            return corner_patch(height, width, self.patch_size)
        return super().pixels(height, width, ctx)


def poison_batch(
    pixels: np.ndarray,
    value: np.ndarray,
    target: int,
    rate: float,
    images: torch.Tensor,
    labels: torch.Tensor,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch [B, C, H, W], [B] with its first round(rate * B) samples, at least one, stamped and relabelled."""
    import torch

    count = max(1, int(rate * len(labels) + 0.5))
    images, labels = images.clone(), labels.clone()
    stamp(images[:count], pixels, torch.from_numpy(value).to(images))
    labels[:count] = target
    return images, labels
