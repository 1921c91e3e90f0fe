from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attacks.edge_case_pgd import EdgeCasePGD, EdgeCasePGDReplacement, project, pull_towards
from raysim.errors import ConfigError
from raysim.training.local import LocalTrainer
from tests.attacks.local_attackers import (
    Recorded,
    client_context,
    client_data,
    honest_training,
    pooled,
    tiny_trainer,
)

DATA = client_data(30)
SMALL: dict[str, Any] = {"clean_samples": 20, "edge_samples": 10}


def moved_trainer(**options: Any) -> LocalTrainer:
    """A trainer whose parameters moved by (3, 4, 0, ...): distance 5."""
    trainer = tiny_trainer(**options)
    trainer.parameters[:2] += torch.tensor([3.0, 4.0])
    return trainer


def displacement(trainer: LocalTrainer) -> np.ndarray:
    return (trainer.vector - trainer.global_vector).numpy()


def test_projection_goes_straight_back_to_the_sphere() -> None:
    trainer = moved_trainer()
    project(1.0, 1, trainer, 0, False)
    moved = displacement(trainer)
    np.testing.assert_allclose(moved[:2], [0.6, 0.8], rtol=1e-5)
    assert not moved[2:].any()


def test_inside_the_ball_nothing_moves() -> None:
    trainer = moved_trainer()
    before = displacement(trainer)
    project(5.1, 1, trainer, 0, True)
    np.testing.assert_array_equal(displacement(trainer), before)


def test_projection_is_of_parameters_alone() -> None:
    trainer = moved_trainer(batch_norm=True)
    dim = trainer.layout.dim
    trainer.vector[dim:] += 7
    project(1.0, 1, trainer, 0, False)
    moved = displacement(trainer)
    assert np.linalg.norm(moved[:dim]) == pytest.approx(1.0, rel=1e-5)
    assert (moved[dim:] == 7).all()


@pytest.mark.parametrize(
    ("every", "step", "last", "projects"),
    [
        (1, 0, False, True),
        (3, 0, False, False),
        (3, 1, False, False),
        (3, 2, False, True),
        (3, 3, True, True),
    ],
)
def test_projection_comes_every_q_batches_and_last(every: int, step: int, last: bool, projects: bool) -> None:
    trainer = moved_trainer()
    project(1.0, every, trainer, step, last)
    assert np.linalg.norm(displacement(trainer)) == pytest.approx(1.0 if projects else 5.0, rel=1e-5)


@pytest.mark.parametrize("every", [1, 4])
def test_training_ends_on_the_sphere(every: int) -> None:
    ctx = client_context(tiny_trainer(), pool=pooled(DATA), round=2)
    attack = EdgeCasePGD(epsilon=0.08, decay=0.5, project_every=every, **SMALL)
    data = attack.poison_data(DATA, ctx)
    free = np.linalg.norm(attack.train_on_poison(honest_training(ctx), data, client_context(ctx.trainer)))
    update = attack.train(honest_training(ctx), data, ctx)
    assert np.linalg.norm(update.astype(np.float64)) == pytest.approx(0.02, rel=1e-4)
    assert free > 0.02  # round 1 has twice the radius


def test_first_round_can_go_unprojected() -> None:
    ctx = client_context(tiny_trainer(), pool=pooled(DATA), round=0)
    attack = EdgeCasePGD(skip_first_round=True, **SMALL)
    train = Recorded(np.zeros(ctx.layout.num_columns, np.float32))
    attack.train(train, attack.poison_data(DATA, ctx), ctx)
    assert "after_step" not in train.options
    attack.train(train, attack.poison_data(DATA, ctx), client_context(ctx.trainer, round=1))
    assert train.options["after_step"].args == (2.0, 1)


def test_proximal_term_pulls_towards_honest_training_on_the_clean_sample() -> None:
    trainer = tiny_trainer()
    ctx = client_context(trainer, pool=pooled(DATA))
    attack = EdgeCasePGD(proximal=0.25, **SMALL)
    data = attack.poison_data(DATA, ctx)
    honest = np.full(ctx.layout.num_columns, 0.5, np.float32)
    train = Recorded(honest)
    attack.train(train, data, ctx)
    (clean, options), _ = train.calls
    assert options == {}
    np.testing.assert_array_equal(clean.images, data.images[:20])
    np.testing.assert_array_equal(clean.labels, data.labels[:20])
    trainer.gradient.fill_(1.0)
    train.options["after_backward"](trainer)
    # w = w_G: the gradient of .25 ||w - (w_G + .5)||^2 is 2 * .25 * (-.5).
    np.testing.assert_allclose(trainer.gradient.numpy(), 0.75, atol=1e-6)


def test_gradient_of_the_proximal_term() -> None:
    trainer = tiny_trainer()
    goal = trainer.parameters.numpy().copy() - np.float32(2)
    trainer.gradient.zero_()
    pull_towards(goal, 3.0, trainer)
    np.testing.assert_allclose(trainer.gradient.numpy(), 12.0, rtol=1e-5)


@pytest.mark.parametrize(("scale", "factor"), [(None, 8.0), (3.0, 3.0)])
def test_replacement_scales_the_projected_update(scale: float | None, factor: float) -> None:
    ctx = client_context(tiny_trainer(batch_norm=True), pool=pooled(DATA), cohort_examples=240)
    data = EdgeCasePGD(**SMALL).poison_data(DATA, ctx)
    assert len(data) == 30
    plain = EdgeCasePGD(epsilon=0.05, **SMALL).train(honest_training(ctx), data, ctx)
    result = EdgeCasePGDReplacement(epsilon=0.05, scale=scale, **SMALL).train(honest_training(ctx), data, ctx)
    dim = ctx.layout.dim
    np.testing.assert_array_equal(result[:dim], plain[:dim] * np.float32(factor))
    np.testing.assert_array_equal(result[dim:], plain[dim:])
    assert np.linalg.norm(result[:dim].astype(np.float64)) == pytest.approx(0.05 * factor, rel=1e-4)


def test_replacement_replaces_under_a_data_weighted_mean() -> None:
    """One attacker, honest clients that do not move: the mean is the attacker's own model."""
    ctx = client_context(tiny_trainer(), pool=pooled(DATA), cohort_examples=240)
    attack = EdgeCasePGDReplacement(epsilon=0.05, **SMALL)
    data = attack.poison_data(DATA, ctx)
    wanted = EdgeCasePGD(epsilon=0.05, **SMALL).train(honest_training(ctx), data, ctx)
    share = len(data) / 240
    np.testing.assert_allclose(share * attack.train(honest_training(ctx), data, ctx), wanted, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon": 0.0},
        {"decay": 1.1},
        {"decay": 0.0},
        {"project_every": 0},
        {"proximal": -1.0},
        {"scale": 0.0},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        EdgeCasePGDReplacement(**options)  # type: ignore[arg-type]
    assert caught.value.key in options
