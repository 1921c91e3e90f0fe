from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.neurotoxin import Neurotoxin, clean_gradient, most_moved
from attacks.trigger import Trigger
from raysim.errors import ConfigError
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import client_context, client_data, honest_training, tiny_trainer


def test_the_largest_entries_of_either_sign() -> None:
    update = np.array([0.1, -3.0, 2.0, 0.0, 1.0])
    assert most_moved(update, 0.4).tolist() == [False, True, True, False, False]
    assert not most_moved(update, 0.1).any()


def moving(recipe: TrainingRecipe | None = None):
    """A client whose global model moved by a random step in the round before."""
    ctx = client_context(tiny_trainer(recipe))
    step = np.random.default_rng(0).standard_normal(len(ctx.global_vector)).astype(np.float32)
    return client_context(tiny_trainer(recipe), previous_global_vector=ctx.global_vector - step), step


@pytest.mark.parametrize(
    "recipe", [TrainingRecipe(epochs=2, batch_size=8, momentum=0.9, weight_decay=0.1), None]
)
def test_what_the_global_update_moved_most_stays(recipe: TrainingRecipe | None) -> None:
    """With momentum and weight decay too; every other parameter that plain training moves, moves."""
    ctx, step = moving(recipe)
    data = client_data(24)
    update = Neurotoxin(top_share=0.25).train(honest_training(ctx), data, ctx)
    held = most_moved(step, 0.25)
    assert held.sum() == len(step) // 4
    assert not update[held].any()
    plain = Trigger().train(honest_training(ctx), data, ctx)
    assert plain[held].any()
    assert ((update != 0) | held | (plain == 0)).mean() > 0.99


def test_the_own_gradient_is_autograds_over_all_samples() -> None:
    ctx = client_context(tiny_trainer())
    data = client_data(24)
    trainer = tiny_trainer()
    loss = torch.nn.functional.cross_entropy(
        trainer.model.eval()(torch.from_numpy(data.images)), torch.from_numpy(data.labels)
    )
    loss.backward()
    np.testing.assert_allclose(clean_gradient(data, ctx), trainer.gradient.numpy(), rtol=1e-4, atol=1e-7)


def test_own_gradients_hold_other_parameters_and_stand_in_at_first() -> None:
    ctx, step = moving()
    data = client_data(24)
    held = most_moved(clean_gradient(data, ctx), 0.25)
    assert (held != most_moved(step, 0.25)).any()
    update = Neurotoxin(top_share=0.25, observed="own").train(honest_training(ctx), data, ctx)
    assert not update[held].any()
    first = client_context(tiny_trainer(), round=0)
    update = Neurotoxin(top_share=0.25).train(honest_training(first), data, first)
    assert not update[held].any()


def test_a_client_without_data_is_honest() -> None:
    ctx = client_context(tiny_trainer())
    data = client_data(0)
    assert not Neurotoxin().train(honest_training(ctx), data, ctx).any()


def test_refuses_to_hold_nothing() -> None:
    with pytest.raises(ConfigError):
        Neurotoxin(top_share=0)
