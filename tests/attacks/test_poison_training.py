"""Local options of attackers, scaling, and the learning rate's steps in local training."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.poison_training import PoisonTraining, check_class, replacement_factor, scaled
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.errors import ConfigError
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import client_context, client_data, tiny_trainer


def test_options_name_only_what_differs_from_honest_training() -> None:
    ctx = client_context(tiny_trainer())
    assert PoisonTraining().training_options(ctx) == {"decay_epochs": ()}
    assert PoisonTraining(epochs=6).training_options(ctx)["epochs"] == 6


def test_a_given_learning_rate_decays_with_the_honest_one() -> None:
    trainer = tiny_trainer(TrainingRecipe(learning_rate=0.1))
    ctx = client_context(trainer, learning_rate=0.025)
    assert PoisonTraining(learning_rate=0.05).training_options(ctx)["learning_rate"] == pytest.approx(0.0125)


def test_learning_rate_is_divided_by_ten_after_the_epochs_named() -> None:
    """One sample, full batch: the second epoch's step is a tenth of the gradient there."""
    trainer = tiny_trainer(TrainingRecipe(batch_size=8, learning_rate=0.5))
    ctx = client_context(trainer)
    data = client_data(8)
    gradients: list[torch.Tensor] = []

    def fit(**options: object) -> np.ndarray:
        gradients.clear()
        return trainer.fit(
            ctx.global_vector,
            data,
            ("k",),
            seed=0,
            after_backward=lambda t: gradients.append(t.gradient.clone()),
            **options,  # type: ignore[arg-type]
        )

    update = fit(epochs=3, decay_epochs=(1, 2))
    expected = -(0.5 * gradients[0] + 0.05 * gradients[1] + 0.005 * gradients[2])
    np.testing.assert_allclose(update[: ctx.layout.dim], expected.numpy(), atol=1e-6)
    plain = fit(epochs=3)
    assert np.linalg.norm(plain) > 1.5 * np.linalg.norm(update)


def test_scaling_leaves_buffers_unless_asked_and_counters_always() -> None:
    layout = tiny_trainer(batch_norm=True).layout
    update = np.ones(layout.num_columns, np.float32)
    parameters_only = scaled(update, 3.0, layout)
    assert (parameters_only[: layout.dim] == 3).all()
    assert (parameters_only[layout.dim :] == 1).all()
    with_buffers = scaled(update, 3.0, layout, buffers=True)
    # BatchNorm over 6 features: mean, variance, and the counter last.
    np.testing.assert_array_equal(with_buffers[layout.dim :], [3.0] * 12 + [1.0])
    assert (update == 1).all()


def test_replacement_factor_is_the_cohorts_examples_over_the_own() -> None:
    ctx = client_context(tiny_trainer(), cohort_examples=240)
    assert replacement_factor(client_data(24), ctx) == 10.0
    empty = ClientData(np.zeros((0, 1, 8, 8), np.float32), np.zeros(0, np.int64))
    assert replacement_factor(empty, ctx) == 1.0


def test_classes_out_of_range_are_refused_with_the_nearest() -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=10)
    check_class("target", 9, setting)
    check_class("target", None, setting)
    with pytest.raises(ConfigError, match="target: must be a class, 0 to 9; received 12") as caught:
        check_class("target", 12, setting)
    assert caught.value.nearest == 9


@pytest.mark.parametrize("options", [{"epochs": 0}, {"learning_rate": 0.0}, {"decay_epochs": (0,)}])
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        PoisonTraining(**options)  # type: ignore[arg-type]
    assert caught.value.key.partition(".")[0] in options
