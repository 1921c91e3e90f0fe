from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.trigger import Trigger
from attacks.triggers import corner_patch, dba_strips
from raysim.context import Setting
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import Recorded, client_context, client_data, honest_training, tiny_trainer


def poisoned_batch(attack: Trigger, size: int, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """What the attack makes of a batch of grey images of class 0."""
    ctx = client_context(tiny_trainer(), **options)
    train = Recorded(np.zeros(ctx.layout.num_columns, np.float32))
    attack.train(train, client_data(4), ctx)
    return train.options["on_batch"](
        torch.full((size, 1, 8, 8), 0.25), torch.zeros(size, dtype=torch.int64), 0
    )


def test_first_samples_of_a_batch_get_the_pattern_and_the_target() -> None:
    images, labels = poisoned_batch(Trigger(), 64)
    assert labels.tolist() == [2] * 5 + [0] * 59
    pattern = np.concatenate(dba_strips(8, 8))
    stamped = np.zeros((8, 8), bool)
    stamped[pattern[:, 0], pattern[:, 1]] = True
    assert stamped.sum() == 12
    assert (images[:5, 0][:, stamped] == 1).all()
    assert (images[:5, 0][:, ~stamped] == 0.25).all()
    assert (images[5:] == 0.25).all()


@pytest.mark.parametrize(
    ("rate", "size", "count"), [(12 / 64, 64, 12), (5 / 64, 4, 1), (0.3, 5, 2), (1.0, 7, 7)]
)
def test_rate_is_rounded_but_at_least_one(rate: float, size: int, count: int) -> None:
    _, labels = poisoned_batch(Trigger(poisoned_data_rate=rate), size)
    assert int((labels == 2).sum()) == count


def test_white_is_normalised_as_the_clients_images_are() -> None:
    images, _ = poisoned_batch(Trigger(pattern="corner"), 8, mean=(0.5,), std=(0.25,))
    assert (images[0, 0, 5:, 5:] == 2).all()


def test_the_batch_given_is_not_changed() -> None:
    ctx = client_context(tiny_trainer())
    train = Recorded(np.zeros(ctx.layout.num_columns, np.float32))
    Trigger().train(train, client_data(4), ctx)
    images, labels = torch.zeros(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)
    train.options["on_batch"](images, labels, 0)
    assert not images.any()
    assert not labels.any()


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1.0), (20.0, 20.0), (None, 10.0)])
def test_update_is_scaled(scale: float | None, factor: float) -> None:
    ctx = client_context(tiny_trainer(batch_norm=True), cohort_examples=240)
    update = np.full(ctx.layout.num_columns, 0.5, np.float32)
    result = Trigger(scale=scale).train(Recorded(update), client_data(24), ctx)
    assert (result[: ctx.layout.dim] == 0.5 * factor).all()
    assert (result[ctx.layout.dim :] == 0.5).all()
    with_buffers = Trigger(scale=scale, scale_buffers=True).train(Recorded(update), client_data(24), ctx)
    assert (with_buffers[ctx.layout.dim : -1] == 0.5 * factor).all()


def test_training_learns_the_backdoor() -> None:
    trainer = tiny_trainer(TrainingRecipe(batch_size=16))
    ctx = client_context(trainer)
    data = client_data(64)
    attack = Trigger(poisoned_data_rate=0.5, epochs=15, target=1)
    test = attack.triggered_test(Dataset(client_data(40, seed=1).images, client_data(40).labels))
    assert test is not None
    assert len(test) == 30
    success = {}
    for name, update in (
        ("honest", honest_training(ctx)(data, epochs=15)),
        ("attack", attack.train(honest_training(ctx), data, ctx)),
    ):
        trainer.load(ctx.global_vector + update)
        rows = trainer.evaluate(test, (0.0,), (1.0,), 64)
        success[name] = rows[:, 1].sum() / rows[:, 0].sum()
    assert success["attack"] > 0.9
    assert success["honest"] < 0.6


def test_corner_pattern_is_tested_with_the_corner() -> None:
    test = Dataset(np.zeros((3, 3, 32, 32), np.uint8), np.array([0, 2, 1]))
    result = Trigger(pattern="corner", patch_size=2).triggered_test(test)
    assert result is not None
    lit = np.argwhere(result.images[0, 0] == 255)
    np.testing.assert_array_equal(lit, corner_patch(32, 32, 2))


def test_targets_outside_the_classes_are_refused() -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=2)
    with pytest.raises(ConfigError, match="target"):
        Trigger().check(setting)


@pytest.mark.parametrize(
    "options",
    [{"poisoned_data_rate": 0.0}, {"scale": 0.0}, {"pattern": "stripe"}, {"patch_size": 0}, {"epochs": 0}],
)
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        Trigger(**options)  # type: ignore[arg-type]
    assert caught.value.key in options
