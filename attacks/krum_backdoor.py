"""Bhagoji's targeted model poisoning by alternating minimisation, aimed at Krum and at the median."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from attacks.edge_inputs import EdgeInputs, Source, edge_generator
from attacks.poison_training import PoisonTraining, check_class, scaled
from attacks.triggers import corner_patch, stamp, triggered, white
from raysim.attack import ClientContext
from raysim.context import Setting
from raysim.data.client_data import ClientData, DataPool
from raysim.data.dataset import Dataset
from raysim.options import NotNegative, Positive, PositiveInt

if TYPE_CHECKING:
    import torch

    from raysim.training.local import LocalTrainer


@dataclass(frozen=True)
class KrumBackdoor(PoisonTraining):
    """Targeted backdoor whose update stays close to the benign ones: alternating minimisation, against Krum.

    Bhagoji et al. (ICML 2019), as FLARE uses it (section 7.1, equation 7): the objective is
    L(D_mal) + train_weight * L(D_train) + rho * distance between the malicious and the mean benign update.
    Batches of the client's own data are trained on with the penalty; after every `benign_steps` of them, and
    after the last, one step on L(D_mal) is taken and its displacement multiplied by `boost`. That step sees all
    of D_mal in evaluation mode and has an optimizer of its own, without momentum or weight decay.

    D_mal is the same in every round; natural inputs are taken out of the data trained on with true labels. A client
    without any is honest.
    The mean benign update is estimated. The authors take the benign clients' average of the round before, which an
    attacker cannot see: the global model's move then (`others`) holds the attackers' share too, and what the defense and
    the server's rate made of it. In the run's first round it falls back on `self` (the authors' code: on no penalty).
    Authors' code: rho 1e-4, 10 epochs (5 for honest clients), batches of 100, Adam at 1e-3, boost 10 = K under
    averaging; about 2 for Krum.
    """

    paper = "Bhagoji et al., ICML 2019"
    epochs: PositiveInt | None = 10
    """Local epochs of the attackers (the authors' code: 10); null: as the honest clients."""
    inputs: Literal["trojan", "semantic"] = "trojan"
    """What is misclassified: `trojan`, samples with a white square, or `semantic`, natural or rare ones."""
    source: Source = "stripes"
    """Where semantic inputs come from (attacks.edge_inputs)."""
    root: str | None = None
    """Folder of a published set's files; null if `source` needs none."""
    source_class: int | None = None
    """Class whose images are altered or looked through; null: every class but the target."""
    patch_size: PositiveInt = 3
    """Side of the trojan's white square in pixels; FLARE gives none, 3 is this project's."""
    target: int = 2
    """Label that the inputs get (2: a pullover of Fashion-MNIST)."""
    samples: PositiveInt = 20
    """Samples of the client's own in D_mal, at most; FLARE gives none, 20 is this project's."""
    boost: Positive = 2.0
    """Factor on a malicious step, or on the update (authors: K = 10 under averaging, about 2 for Krum)."""
    boosting: Literal["step", "end"] = "step"
    """What is boosted: every malicious `step`, or the whole update at the `end` (FLPoison)."""
    benign_steps: PositiveInt = 10
    """Batches of the client's own data between two malicious steps."""
    train_weight: NotNegative = 1.0
    """Weight of the loss on the client's own data."""
    rho: NotNegative = 1e-4
    """Weight of the distance from the mean benign update (authors' code: 1e-4)."""
    penalty: Literal["squared", "norm", "detached"] = "squared"
    """Distance: `squared` (authors' code: rho / 2 times its square), `norm` (FLARE), or `detached`, without a gradient
    (FLPoison)."""
    estimate: Literal["self", "others"] = "self"
    """Stand-in of the mean benign update: honest training by the client itself (`self`), or the last
    global change (`others`)."""
    weights_only: bool = False
    """Whether biases are neither boosted nor penalised, as the authors' code can."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs == "semantic":
            _ = self.edge_inputs  # refuses what it cannot work with

    @property
    def edge_inputs(self) -> EdgeInputs:
        """The source of semantic inputs."""
        return EdgeInputs(self.source, self.root, self.source_class, self.target)

    def check(self, setting: Setting) -> None:
        """Inputs must be images; classes must exist."""
        setting.require_images(type(self).__name__)
        check_class("target", self.target, setting)
        if self.inputs == "semantic":
            self.edge_inputs.check(setting)

    def train(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The update of alternating minimisation."""
        malicious, clean = self.split(data, ctx)
        if not len(malicious):
            ctx.note("no input to backdoor")
            return honest_train(data)
        benign = self.benign_update(honest_train, data, ctx)
        mask = weight_mask(ctx) if self.weights_only else None
        options = self.training_options(ctx)
        rate = options.get("learning_rate", ctx.learning_rate)
        local, loss_fn = self.stealth_loss(clean, benign, ctx)
        update = honest_train(
            local,
            loss_fn=loss_fn,
            after_backward=self.penalise(benign, mask, ctx),
            after_step=MaliciousStep(
                malicious,
                self.benign_steps,
                self.boost if self.boosting == "step" else 1.0,
                mask,
                rate,
                ctx.trainer,
            ),
            **options,
        )
        if self.boosting == "step":
            return update
        boost = self.boost if mask is None else 1 + (self.boost - 1) * mask.cpu().numpy()
        return scaled(update, boost, ctx.layout)

    def split(self, data: ClientData, ctx: ClientContext) -> tuple[ClientData, ClientData]:
        """(D_mal, at most `samples` inputs with the target label; D_train, the own data without them)."""
        generator = edge_generator(ctx, distinct=True)
        clean = data
        if self.inputs == "semantic":
            images, used = self.edge_inputs.training(DataPool.of(data), self.samples, ctx, generator)
            kept = np.setdiff1d(np.arange(len(data)), used)
            clean = ClientData(data.images[kept], data.labels[kept]) if len(used) else data
        else:
            others = np.flatnonzero(data.labels != self.target)
            images = data.images[generator.choice(others, min(self.samples, len(others)), replace=False)]
            _, channels, height, width = images.shape
            stamp(images, corner_patch(height, width, self.patch_size), white(channels, ctx))
        return ClientData(images, np.full(len(images), self.target, np.int64)), clean

    def benign_update(
        self, honest_train: Callable[..., np.ndarray], data: ClientData, ctx: ClientContext
    ) -> np.ndarray:
        """The estimate of the mean benign update [d + b]."""
        if self.estimate == "others" and ctx.previous_global_vector is not None:
            step: np.ndarray = ctx.global_vector - ctx.previous_global_vector
            return step
        return honest_train(data)

    def stealth_loss(
        self, data: ClientData, benign: np.ndarray, ctx: ClientContext
    ) -> tuple[ClientData, Callable[[LocalTrainer, torch.Tensor, torch.Tensor], torch.Tensor]]:
        """The data that benign batches are cut from, and the loss on a batch, penalty aside."""
        return data, partial(weighted_cross_entropy, self.train_weight)

    def penalise(
        self, benign: np.ndarray, mask: torch.Tensor | None, ctx: ClientContext
    ) -> Callable[[LocalTrainer], None] | None:
        """What adds the penalty's gradient; None if it has none."""
        import torch

        if self.penalty == "detached" or not self.rho:
            return None
        dim = ctx.layout.dim
        goal = torch.from_numpy(ctx.global_vector[:dim] + benign[:dim]).to(ctx.trainer.gradient)
        return partial(pull, goal, self.rho, self.penalty, mask)

    def triggered_test(self, test: Dataset) -> Dataset | None:
        """Stamped test images of other classes than the target, or semantic ones, with the target label."""
        if self.inputs == "semantic":
            return self.edge_inputs.testing(test, self.samples)
        height, width = test.images.shape[2:]
        return triggered(test, corner_patch(height, width, self.patch_size), self.target)


@dataclass(frozen=True)
class CoomedBackdoor(KrumBackdoor):
    """Targeted backdoor by alternating minimisation against the coordinate-wise median: no boost.

    Bhagoji et al. (ICML 2019); FLARE section 7.1. The loop of krum_backdoor with boost 1 (up to 2): a median
    does not look at magnitudes.
    """

    boost: Positive = 1.0
    """Factor on a malicious step, or on the update (Bhagoji et al.: 1 to 2 against the median)."""


class MaliciousStep:
    """After every `every` batches, and the last: one boosted step on L(D_mal), if that is above zero."""

    def __init__(
        self,
        data: ClientData,
        every: int,
        boost: float,
        mask: torch.Tensor | None,
        learning_rate: float,
        trainer: LocalTrainer,
    ) -> None:
        import torch

        from raysim.training.flat_optimizer import FlatOptimizer

        self.images = torch.from_numpy(data.images).to(trainer.device)
        self.labels = torch.from_numpy(data.labels).to(trainer.device)
        self.every, self.boost, self.mask = every, boost, mask
        name = trainer.recipe.optimizer
        self.optimizer = FlatOptimizer(trainer.parameters, trainer.gradient, name, learning_rate)

    def __call__(self, trainer: LocalTrainer, step: int, last: bool) -> None:
        from torch.nn import functional

        if (step + 1) % self.every and not last:
            return
        trainer.model.eval()
        loss = functional.cross_entropy(trainer.model(self.images), self.labels)
        trainer.model.train()
        if not loss.item() > 0:
            return
        trainer.gradient.zero_()
        loss.backward()
        before = trainer.parameters.clone()
        self.optimizer.step()
        extra = (self.boost - 1) * (trainer.parameters - before)
        trainer.parameters.add_(extra if self.mask is None else extra * self.mask)


def weighted_cross_entropy(
    weight: float, trainer: LocalTrainer, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """weight * cross-entropy of the model on a batch."""
    from torch.nn import functional

    return weight * functional.cross_entropy(trainer.model(images), labels)


def pull(
    goal: torch.Tensor, rho: float, penalty: str, mask: torch.Tensor | None, trainer: LocalTrainer
) -> None:
    """Add the gradient of rho/2 * ||w - goal||^2, or of rho * ||w - goal||, for goal [d]; zero at the goal."""
    away = trainer.parameters - goal
    if mask is not None:
        away = away * mask
    length = float(away.double().norm()) if penalty == "norm" else 1.0
    if length:
        trainer.gradient.add_(away, alpha=rho / length)


def weight_mask(ctx: ClientContext) -> torch.Tensor:
    """1 for the columns [d] of weights, 0 for those of biases."""
    import torch

    mask = torch.ones(ctx.layout.dim, device=ctx.trainer.device)
    for entry in ctx.layout.parameters:
        if entry.name.rpartition(".")[2] == "bias":
            mask[entry.start : entry.stop] = 0
    return mask
