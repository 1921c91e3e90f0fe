from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from attacks.flare_adaptive import FlareAdaptive, class_mean_distance, representation
from attacks.krum_backdoor import KrumBackdoor
from raysim.errors import ConfigError
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import client_context, client_data, honest_training, tiny_trainer

DATA = client_data(40)
IMAGES, LABELS = torch.from_numpy(DATA.images), torch.from_numpy(DATA.labels)


def by_hand(trainer: LocalTrainer, vector: np.ndarray) -> torch.Tensor:
    """relu(W x + b) of the tiny network without BatchNorm."""
    weight, bias = (torch.from_numpy(trainer.layout.view(vector, f"1.{part}")) for part in ("weight", "bias"))
    return functional.relu(IMAGES.flatten(1) @ weight.T + bias)


def test_representation_is_what_enters_the_last_layer() -> None:
    trainer = tiny_trainer()
    trainer.model.train()
    seen = representation(trainer, IMAGES)
    torch.testing.assert_close(seen, by_hand(trainer, trainer.vector.numpy()), rtol=1e-5, atol=1e-6)
    assert trainer.model.training
    assert not trainer.model[4]._forward_pre_hooks  # type: ignore[index]


def test_representation_leaves_batch_statistics_alone() -> None:
    trainer = tiny_trainer(batch_norm=True)
    trainer.model.train()
    before = trainer.vector.clone()
    representation(trainer, IMAGES)
    assert torch.equal(trainer.vector, before)


def test_distance_is_between_class_means_and_skips_empty_classes() -> None:
    one = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    other = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    # Class 0: means (2, 0) and (0, 0); class 3: (0, 5) and (0, 1); classes 1 and 2 have no sample.
    distance = class_mean_distance(one, other, torch.tensor([0, 0, 3]))
    assert distance.item() == pytest.approx(2 + 4)


def test_distance_of_equal_representations_has_no_gradient() -> None:
    one = torch.ones(3, 2, requires_grad=True)
    class_mean_distance(one, torch.ones(3, 2), torch.tensor([0, 1, 1])).backward()
    assert one.grad is not None
    assert not one.grad.any()


def test_loss_adds_eta_times_the_distance_to_the_benign_model() -> None:
    trainer = tiny_trainer()
    ctx = client_context(trainer)
    benign = np.random.default_rng(4).normal(0, 0.1, ctx.layout.num_columns).astype(np.float32)
    data, loss_fn = FlareAdaptive(eta=0.7, train_weight=0.5).stealth_loss(DATA, benign, ctx)
    assert data.labels.tolist() == list(range(40))
    trainer.load(ctx.global_vector)
    batch = torch.tensor([7, 0, 13, 3, 4])
    loss = loss_fn(trainer, IMAGES[batch], batch)
    reference = by_hand(trainer, ctx.global_vector + benign)[batch]
    distance = class_mean_distance(by_hand(trainer, ctx.global_vector)[batch], reference, LABELS[batch])
    task = functional.cross_entropy(trainer.model(IMAGES[batch]), LABELS[batch])
    assert loss.item() == pytest.approx(0.5 * task.item() + 0.7 * distance.item(), rel=1e-5)
    assert distance.item() > 0.1


def test_without_eta_it_is_the_attack_on_krum() -> None:
    ctx = client_context(tiny_trainer())
    adaptive = FlareAdaptive(eta=0.0, epochs=2).train(honest_training(ctx), DATA, ctx)
    plain = KrumBackdoor(epochs=2).train(honest_training(ctx), DATA, ctx)
    np.testing.assert_allclose(adaptive, plain, atol=1e-6)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_representations_stay_closer_to_benign_ones(batch_norm: bool) -> None:
    recipe = TrainingRecipe(epochs=2, batch_size=8, optimizer="adam", learning_rate=0.002)
    trainer = tiny_trainer(recipe, batch_norm=batch_norm)
    ctx = client_context(trainer)
    trainer.load(ctx.global_vector + honest_training(ctx)(DATA))
    benign = representation(trainer, IMAGES).detach()

    def distance(eta: float) -> float:
        update = FlareAdaptive(eta=eta, boost=1.0).train(honest_training(ctx), DATA, ctx)
        trainer.load(ctx.global_vector + update)
        return float(class_mean_distance(representation(trainer, IMAGES), benign, LABELS).detach())

    assert distance(1.0) < 0.7 * distance(0.0)


def test_negative_eta_is_refused() -> None:
    with pytest.raises(ConfigError, match="eta"):
        FlareAdaptive(eta=-1.0)
