from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from attacks.edge_inputs import striped_first
from attacks.krum_backdoor import CoomedBackdoor, KrumBackdoor, MaliciousStep, pull, weight_mask
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import Recorded, client_context, client_data, honest_training, tiny_trainer

DATA = client_data(40)


def malicious_gradient(trainer: LocalTrainer, data: ClientData) -> np.ndarray:
    """The gradient of L(D_mal) at the trainer's present parameters."""
    trainer.model.eval()
    trainer.gradient.zero_()
    functional.cross_entropy(
        trainer.model(torch.from_numpy(data.images)), torch.from_numpy(data.labels)
    ).backward()
    return trainer.gradient.numpy().copy()


def test_malicious_step_is_boosted() -> None:
    trainer = tiny_trainer()
    gradient = malicious_gradient(trainer, DATA)
    MaliciousStep(DATA, 1, 5.0, None, 0.1, trainer)(trainer, 0, False)
    moved = (trainer.parameters - trainer.global_vector).numpy()
    np.testing.assert_allclose(moved, -5 * 0.1 * gradient, atol=1e-6)


def test_biases_can_go_unboosted() -> None:
    trainer = tiny_trainer()
    ctx = client_context(trainer)
    gradient = malicious_gradient(trainer, DATA)
    mask = weight_mask(ctx)
    layout = ctx.layout
    for name, value in (("1.weight", 1), ("1.bias", 0), ("4.weight", 1), ("4.bias", 0)):
        assert (layout.view(mask.numpy(), name) == value).all()
    MaliciousStep(DATA, 1, 5.0, mask, 0.1, trainer)(trainer, 0, False)
    moved = (trainer.parameters - trainer.global_vector).numpy()
    np.testing.assert_allclose(moved, -0.1 * gradient * np.where(mask.numpy(), 5, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("step", "last", "steps"), [(0, False, 0), (8, False, 0), (9, False, 1), (3, True, 1)]
)
def test_malicious_step_follows_the_benign_ones(step: int, last: bool, steps: int) -> None:
    trainer = tiny_trainer()
    MaliciousStep(DATA, 10, 2.0, None, 0.1, trainer)(trainer, step, last)
    assert bool((trainer.parameters != trainer.global_vector).any()) is bool(steps)


def test_no_step_where_nothing_is_left_to_learn() -> None:
    trainer = tiny_trainer()
    trainer.layout.view(trainer.vector.numpy(), "4.bias")[1] = 1e6
    before = trainer.vector.clone()
    sure = ClientData(DATA.images, np.ones(40, np.int64))
    MaliciousStep(sure, 1, 2.0, None, 0.1, trainer)(trainer, 0, False)
    assert torch.equal(trainer.vector, before)


def test_malicious_step_leaves_batch_statistics_alone() -> None:
    trainer = tiny_trainer(batch_norm=True)
    trainer.model.train()
    one = ClientData(DATA.images[:1], DATA.labels[:1])
    MaliciousStep(one, 1, 2.0, None, 0.1, trainer)(trainer, 0, False)
    dim = trainer.layout.dim
    assert torch.equal(trainer.vector[dim:], trainer.global_vector[dim:])
    assert (trainer.vector[:dim] != trainer.global_vector[:dim]).any()
    assert trainer.model.training


def test_penalties_have_the_gradients_of_their_formulas() -> None:
    trainer = tiny_trainer()
    goal = trainer.parameters.clone()
    goal[:2] -= torch.tensor([3.0, 4.0])  # w - goal = (3, 4, 0, ...)
    for penalty, expected in (("squared", [1.5, 2.0]), ("norm", [0.3, 0.4])):
        trainer.gradient.zero_()
        pull(goal, 0.5, penalty, None, trainer)
        np.testing.assert_allclose(trainer.gradient[:2].numpy(), expected, rtol=1e-5)
        assert not trainer.gradient[2:].any()
    trainer.gradient.zero_()
    pull(trainer.parameters.clone(), 0.5, "norm", None, trainer)
    assert not trainer.gradient.any()


def test_penalty_pulls_towards_the_benign_estimate() -> None:
    trainer = tiny_trainer()
    ctx = client_context(trainer)
    benign = np.full(ctx.layout.num_columns, 0.5, np.float32)
    train = Recorded(benign)
    attack = KrumBackdoor(rho=0.2)
    attack.train(train, DATA, ctx)
    assert train.calls[0][1] == {}  # the estimate: one honest training
    trainer.gradient.zero_()
    train.options["after_backward"](trainer)
    np.testing.assert_allclose(trainer.gradient.numpy(), -0.1, atol=1e-6)
    for silent in (replace(attack, penalty="detached"), replace(attack, rho=0.0)):
        silent.train(train, DATA, ctx)
        assert train.options["after_backward"] is None
    replace(attack, weights_only=True).train(train, DATA, ctx)
    trainer.gradient.zero_()
    train.options["after_backward"](trainer)
    np.testing.assert_allclose(ctx.layout.view(trainer.gradient.numpy(), "4.weight"), -0.1, atol=1e-6)
    assert not ctx.layout.view(trainer.gradient.numpy(), "4.bias").any()


def test_estimate_from_others_is_the_last_move_of_the_global_model() -> None:
    trainer = tiny_trainer()
    attack = KrumBackdoor(estimate="others")
    own = Recorded(np.full(trainer.layout.num_columns, 9, np.float32))
    ctx = client_context(trainer)
    later = client_context(trainer, previous_global_vector=ctx.global_vector - np.float32(0.25))
    np.testing.assert_allclose(attack.benign_update(own, DATA, later), 0.25, atol=1e-6)
    assert not own.calls
    assert (attack.benign_update(own, DATA, ctx) == 9).all()


def test_trojan_inputs_are_own_samples_of_other_classes_stamped() -> None:
    ctx = client_context(tiny_trainer(), round=1)
    before = DATA.images.copy()
    malicious, clean = KrumBackdoor(samples=7, patch_size=2).split(DATA, ctx)
    assert clean is DATA
    assert malicious.labels.tolist() == [2] * 7
    assert (malicious.images[:, :, 6:, 6:] == 1).all()
    others = DATA.images[DATA.labels != 2].copy()
    others[:, :, 6:, 6:] = 1
    assert {image.tobytes() for image in malicious.images} < {image.tobytes() for image in others}
    np.testing.assert_array_equal(DATA.images, before)
    again, _ = KrumBackdoor(samples=7, patch_size=2).split(DATA, client_context(tiny_trainer(), round=6))
    np.testing.assert_array_equal(malicious.images, again.images)


def test_semantic_inputs_are_natural() -> None:
    ctx = client_context(tiny_trainer())
    attack = KrumBackdoor(inputs="semantic", samples=5)
    others = DATA.images[DATA.labels != 2]
    malicious, clean = attack.split(DATA, ctx)
    np.testing.assert_array_equal(malicious.images, others[striped_first(others)[:5]])
    left = {image.tobytes() for image in clean.images}
    assert len(left) == len(clean) == 35
    assert not left & {image.tobytes() for image in malicious.images}
    test = Dataset(DATA.images, DATA.labels)
    measured = attack.triggered_test(test)
    assert measured is not None
    np.testing.assert_array_equal(measured.images, others[striped_first(others)[:5]])
    assert measured.labels.tolist() == [2] * 5


def test_trojan_success_is_measured_on_stamped_images() -> None:
    measured = KrumBackdoor().triggered_test(Dataset(DATA.images, DATA.labels))
    assert measured is not None
    assert len(measured) == 30
    assert (measured.images[:, :, 5:, 5:] == 1).all()


def test_a_client_with_nothing_to_poison_is_honest_and_says_so() -> None:
    ctx = client_context(tiny_trainer())
    only_target = ClientData(DATA.images[:4], np.full(4, 2))
    train = Recorded(np.ones(ctx.layout.num_columns, np.float32))
    KrumBackdoor().train(train, only_target, ctx)
    assert train.calls == [(only_target, {})]
    assert ctx.notes == ["no input to backdoor"]


def test_boosting_at_the_end_scales_the_update_once() -> None:
    ctx = client_context(tiny_trainer(batch_norm=True))
    update = np.ones(ctx.layout.num_columns, np.float32)
    attack = KrumBackdoor(boost=4.0, boosting="end")
    train = Recorded(update)
    result = attack.train(train, DATA, ctx)
    assert (result[: ctx.layout.dim] == 4).all()
    assert (result[ctx.layout.dim :] == 1).all()
    assert train.options["after_step"].boost == 1
    masked = replace(attack, weights_only=True).train(train, DATA, ctx)
    assert (ctx.layout.view(masked, "1.weight") == 4).all()
    assert (ctx.layout.view(masked, "1.bias") == 1).all()
    stepwise = replace(attack, boosting="step").train(train, DATA, ctx)
    np.testing.assert_array_equal(stepwise, update)
    assert train.options["after_step"].boost == 4


def test_training_data_and_loss_are_the_clients_own() -> None:
    trainer = tiny_trainer()
    ctx = client_context(trainer)
    train = Recorded(np.zeros(ctx.layout.num_columns, np.float32))
    KrumBackdoor(train_weight=0.5).train(train, DATA, ctx)
    data, options = train.calls[-1]
    assert data is DATA
    assert options["epochs"] == 10
    images, labels = torch.from_numpy(DATA.images), torch.from_numpy(DATA.labels)
    expected = 0.5 * functional.cross_entropy(trainer.model(images), labels)
    assert options["loss_fn"](trainer, images, labels).item() == pytest.approx(expected.item())


def test_alternation_plants_the_backdoor_close_to_honest_training() -> None:
    trainer = tiny_trainer(TrainingRecipe(epochs=2, batch_size=4, optimizer="adam", learning_rate=0.005))
    ctx = client_context(trainer)
    honest = honest_training(ctx)(DATA)
    results = {}
    for name, attack in (("stealthy", KrumBackdoor(rho=1.0)), ("free", KrumBackdoor(rho=0.0))):
        update = attack.train(honest_training(ctx), DATA, ctx)
        trainer.load(ctx.global_vector + update)
        measured = attack.triggered_test(Dataset(DATA.images, DATA.labels))
        assert measured is not None
        rows = trainer.evaluate(measured, (0.0,), (1.0,), 64)
        results[name] = (rows[0, 1] / rows[0, 0], np.linalg.norm(update - honest))
    assert results["free"][0] > 0.8
    assert results["stealthy"][1] < 0.8 * results["free"][1]


def test_the_medians_variant_does_not_boost() -> None:
    assert CoomedBackdoor().boost == 1.0
    ctx = client_context(tiny_trainer())
    same = KrumBackdoor(boost=1.0, epochs=1).train(honest_training(ctx), DATA, ctx)
    np.testing.assert_array_equal(CoomedBackdoor(epochs=1).train(honest_training(ctx), DATA, ctx), same)


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "physical"},
        {"estimate": "all"},
        {"penalty": "l1"},
        {"boosting": "twice"},
        {"samples": 0},
        {"benign_steps": 0},
        {"boost": 0.0},
        {"rho": -1.0},
        {"train_weight": -1.0},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        KrumBackdoor(**options)  # type: ignore[arg-type]
    assert caught.value.key in options


def test_semantic_sources_and_classes_are_checked() -> None:
    with pytest.raises(ConfigError, match="root"):
        KrumBackdoor(inputs="semantic", source="southwest")
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=1, num_classes=2)
    with pytest.raises(ConfigError, match="target"):
        KrumBackdoor().check(setting)
