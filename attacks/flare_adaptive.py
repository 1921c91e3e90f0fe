"""The adaptive attack on FLARE: a backdoor whose hidden representations stay those of a benign model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from attacks.krum_backdoor import KrumBackdoor, weighted_cross_entropy
from raysim.attack import ClientContext
from raysim.data.client_data import ClientData
from raysim.options import NotNegative

if TYPE_CHECKING:
    import torch

    from raysim.training.local import LocalTrainer

BATCH = 256


@dataclass(frozen=True)
class FlareAdaptive(KrumBackdoor):
    """krum_backdoor with penultimate-layer representations (PLR) held close to a benign model's.

    FLARE, section 7.4, equations 9 and 10: the loss gains eta * d_plr, with d_plr the sum over classes of the
    distance between the class means of the PLRs of the malicious and of the benign model w_G + estimate. The
    printed equation has no norm, and a vector cannot be minimised: Euclidean here. The attacker's own data
    stand in for D; classes it does not hold are skipped. Each benign batch compares its own samples under
    both models, in evaluation mode, as the server does. The paper gives no eta; 1 is this project's default.
    A norm's gradient does not shrink on the way to its minimum: with plain SGD at a rate of .1 the term makes
    the model oscillate, with the paper's Adam at 1e-3 it does not.
    """

    paper = "Wang et al., AsiaCCS 2022"
    eta: NotNegative = 1.0
    """Weight of the distance of representations in the loss; the paper gives none, 1 is this project's."""

    def stealth_loss(
        self, data: ClientData, benign: np.ndarray, ctx: ClientContext
    ) -> tuple[ClientData, Callable[[LocalTrainer, torch.Tensor, torch.Tensor], torch.Tensor]]:
        """As krum_backdoor's plus eta * d_plr; labels are replaced by positions, to find a sample's benign PLR."""
        import torch

        trainer = ctx.trainer
        trainer.load(ctx.global_vector + benign)
        with torch.no_grad():
            parts = [
                representation(
                    trainer, torch.from_numpy(data.images[first : first + BATCH]).to(trainer.device)
                )
                for first in range(0, len(data), BATCH)
            ]
        labels = torch.from_numpy(data.labels).to(trainer.device)
        positions = ClientData(data.images, np.arange(len(data)))
        return positions, partial(adaptive_loss, self.train_weight, self.eta, labels, torch.cat(parts))


def adaptive_loss(
    weight: float,
    eta: float,
    labels: torch.Tensor,
    benign: torch.Tensor,
    trainer: LocalTrainer,
    images: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """weight * cross-entropy + eta * d_plr of a batch; labels [n] and benign PLRs [n, h] are of all samples."""
    loss = weighted_cross_entropy(weight, trainer, images, labels[positions])
    own = representation(trainer, images)
    return loss + eta * class_mean_distance(own, benign[positions], labels[positions])


def representation(trainer: LocalTrainer, images: torch.Tensor) -> torch.Tensor:
    """What enters the model's last linear layer in evaluation mode: [B, h]. Leaves the mode as it was."""
    head = trainer.model.get_submodule(trainer.factory.head)
    seen: list[torch.Tensor] = []
    training = trainer.model.training
    trainer.model.eval()
    with head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])):
        trainer.model(images)
    trainer.model.train(training)
    return seen[0]


def class_mean_distance(one: torch.Tensor, other: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over the classes in `labels` [B] of the distance between class means of two [B, h]."""
    import torch

    classes, which = torch.unique(labels, return_inverse=True)
    members = torch.nn.functional.one_hot(which, len(classes)).to(one)
    means = (members / members.sum(0)).T @ (one - other)
    return (means.square().sum(1) + 1e-12).sqrt().sum()
