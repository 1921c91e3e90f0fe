"""Local training against plain torch loops, and every hook."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from raysim import rng
from raysim.data.client_data import ClientData
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.training import local
from raysim.training.flat_optimizer import FlatOptimizer
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from tests.small_models import SmallNet, samples, torch_loop

SEED, KEY = 11, ("train", 2, 7)
DATA = ClientData(*samples(22, seed=4))
RECIPE = TrainingRecipe(epochs=3, batch_size=5, learning_rate=0.1)


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer_of(kind="linear", recipe=RECIPE):
    return LocalTrainer(SmallNet(kind), Layout.of(SmallNet(kind).build()), recipe)


def start_of(kind="linear"):
    model = SmallNet(kind).build()
    return Layout.of(model).vector(model)


def batches_of(count=22, epochs=3, size=5):
    """The batches that training is documented to take: a permutation an epoch, from (seed, key, "batches")."""
    shuffle = rng.generator(SEED, *KEY, "batches")
    orders = [shuffle.permutation(count) for _ in range(epochs)]
    return [order[first : first + size] for order in orders for first in range(0, count, size)]


def by_hand(kind, batches, make, data=DATA):
    model = SmallNet(kind).build()
    start = Layout.of(model).vector(model)
    with rng.torch_randomness(SEED, *KEY, "dropout"):
        return torch_loop(model, data.images, data.labels, batches, make) - start


# -- training against plain torch ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "dropout", "batchnorm"])
@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({}, partial(torch.optim.SGD, lr=0.1)),
        ({"momentum": 0.9, "weight_decay": 0.01}, partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)),
        ({"optimizer": "adam", "weight_decay": 0.01}, partial(torch.optim.Adam, lr=0.1, weight_decay=0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.1}, partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1)),
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)  # fmt: skip
def test_fit_is_torch_on_separate_parameters(kind, options, make):
    recipe = replace(RECIPE, **options)
    found = trainer_of(kind, recipe).fit(start_of(kind), DATA, KEY, seed=SEED)
    assert found.dtype == np.float32
    expected = by_hand(kind, batches_of(), make)
    assert np.abs(expected[:100]).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_the_proximal_term_pulls_towards_the_global_parameters():
    """FedProx: the gradient of mu / 2 |w - w_G|^2 is mu (w - w_G)."""
    found = trainer_of(recipe=replace(RECIPE, proximal_mu=2.0)).fit(start_of(), DATA, KEY, seed=SEED)
    model = SmallNet("linear").build()
    start = [parameter.detach().clone() for parameter in model.parameters()]
    for batch in batches_of():
        scores = model(torch.from_numpy(DATA.images[batch]))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(DATA.labels[batch]))
        away = sum((p - s).square().sum() for p, s in zip(model.parameters(), start, strict=True))
        slopes = torch.autograd.grad(loss + 2.0 / 2 * away, list(model.parameters()))
        with torch.no_grad():
            for parameter, slope in zip(model.parameters(), slopes, strict=True):
                parameter -= 0.1 * slope
    expected = Layout.of(model).vector(model) - start_of()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    free = trainer_of().fit(start_of(), DATA, KEY, seed=SEED)
    assert np.linalg.norm(found) < 0.9 * np.linalg.norm(free)


def test_each_batch_is_augmented_before_hooks_see_it(monkeypatch):
    monkeypatch.setattr(
        local, "augmented", lambda images, kind, padding, draw: images + draw.random()
    )  # ours are 4 x 4
    seen = []
    fit = partial(trainer_of(recipe=replace(RECIPE, augmentation="crop_flip")).fit, start_of(), DATA, KEY)
    fit(seed=SEED, on_batch=lambda x, y, step: (seen.append(x.clone()) or x, y))
    for step, batch in enumerate(batches_of()):
        draw = rng.generator(SEED, *KEY, "augmentation", step)
        assert torch.equal(seen[step], torch.from_numpy(DATA.images[batch]) + draw.random())


def test_buffers_and_counters_are_part_of_the_update():
    trainer = trainer_of("batchnorm")
    found = trainer.fit(start_of("batchnorm"), DATA, KEY, seed=SEED)
    layout = trainer.layout
    assert found.shape == (layout.num_columns,)
    assert layout.view(found, "norm.num_batches_tracked") == 3 * 5
    assert np.abs(layout.view(found, "norm.running_mean")).min() > 0
    later = start_of("batchnorm")
    later[-1] = 40
    assert trainer.fit(later, DATA, KEY, seed=SEED)[-1] == 15
    assert trainer.model.norm.num_batches_tracked == 55


def test_one_trainer_after_another_gives_the_same_bytes():
    """Nothing is left of a client when the next is trained: weights, optimizer memory, buffers, dropout."""
    for kind in ("dropout", "batchnorm"):
        recipe = replace(RECIPE, optimizer="adam")
        fresh = trainer_of(kind, recipe).fit(start_of(kind), DATA, KEY, seed=SEED)
        used = trainer_of(kind, recipe)
        used.fit(2 * start_of(kind), ClientData(*samples(9, seed=1)), ("other",), seed=5)
        used.evaluate(Dataset(*samples(3)), (0.0,), (1.0,), 2)
        assert used.fit(start_of(kind), DATA, KEY, seed=SEED).tobytes() == fresh.tobytes()


def test_seed_and_key_decide_the_batches_and_the_dropout():
    fit = partial(trainer_of("dropout").fit, start_of("dropout"), DATA)
    updates = {
        fit(key, seed=seed).tobytes() for key, seed in ((KEY, SEED), (KEY, 12), (("train", 2, 8), SEED))
    }
    assert len(updates) == 3


def test_the_global_generator_is_left_alone():
    torch.default_generator.manual_seed(3)
    before = torch.get_rng_state()
    trainer_of("dropout").fit(start_of("dropout"), DATA, KEY, seed=SEED)
    assert torch.equal(torch.get_rng_state(), before)


def test_read_only_vectors_and_data_are_fine_and_unchanged():
    start = start_of()
    start.flags.writeable = False
    before = start.copy()
    trainer = trainer_of()
    trainer.fit(start, DATA, KEY, seed=SEED)
    np.testing.assert_array_equal(start, before)
    np.testing.assert_array_equal(trainer.global_vector, before)


def test_options_override_the_recipe():
    trainer = trainer_of()
    fit = partial(trainer.fit, start_of(), DATA, KEY, seed=SEED)
    for options, recipe in (
        ({"epochs": 1}, {"epochs": 1}),
        ({"batch_size": 22}, {"batch_size": 22}),
        ({"learning_rate": 0.01}, {"learning_rate": 0.01}),
        ({"momentum": 0.5}, {"momentum": 0.5}),
        ({"weight_decay": 0.2}, {"weight_decay": 0.2}),
        ({"optimizer": "adamw"}, {"optimizer": "adamw"}),
    ):
        expected = trainer_of(recipe=replace(RECIPE, **recipe)).fit(start_of(), DATA, KEY, seed=SEED)
        np.testing.assert_array_equal(fit(**options), expected)
        assert not np.array_equal(expected, fit())
    assert not fit(epochs=0).any()
    strong = trainer_of(recipe=replace(RECIPE, momentum=0.9, weight_decay=0.1))
    np.testing.assert_array_equal(
        strong.fit(start_of(), DATA, KEY, seed=SEED, momentum=0.0, weight_decay=0.0), fit()
    )


def test_a_client_without_samples_stays_where_it_is():
    trainer = trainer_of("batchnorm")
    empty = ClientData(np.zeros((0, 1, 4, 4), np.float32), np.zeros(0, np.int64))
    assert not trainer.fit(start_of("batchnorm"), empty, KEY, seed=SEED).any()
    assert np.isnan(trainer.train_loss)


@pytest.mark.parametrize("count", [21, 6])
def test_a_trailing_sample_is_left_out_where_the_model_normalises_over_the_batch(count):
    data = ClientData(DATA.images[:count], DATA.labels[:count])
    sgd = partial(torch.optim.SGD, lr=0.1)
    batches = batches_of(count)
    found = trainer_of("batchnorm").fit(start_of("batchnorm"), data, KEY, seed=SEED)
    whole = [batch for batch in batches if len(batch) > 1]
    np.testing.assert_allclose(found, by_hand("batchnorm", whole, sgd, data), rtol=0, atol=1e-7)
    found = trainer_of().fit(start_of(), data, KEY, seed=SEED)
    np.testing.assert_allclose(found, by_hand("linear", batches, sgd, data), rtol=0, atol=1e-7)


def test_a_client_with_one_sample_does_not_stop_the_round():
    data = ClientData(DATA.images[:1], DATA.labels[:1])
    trainer = trainer_of("batchnorm")
    assert not trainer.fit(start_of("batchnorm"), data, KEY, seed=SEED).any()
    assert np.isnan(trainer.train_loss)
    assert trainer_of().fit(start_of(), data, KEY, seed=SEED).any()


def test_train_loss_is_the_mean_over_the_steps():
    losses = []

    def spy(trainer, images, labels):
        loss = nn.functional.cross_entropy(trainer.model(images), labels)
        losses.append(loss.item())
        return loss

    trainer = trainer_of()
    plain = trainer.fit(start_of(), DATA, KEY, seed=SEED)
    expected = trainer.train_loss
    np.testing.assert_array_equal(trainer.fit(start_of(), DATA, KEY, seed=SEED, loss_fn=spy), plain)
    assert len(losses) == 15
    assert trainer.train_loss == pytest.approx(np.mean(losses)) == expected


# -- hooks ------------------------------------------------------------------------------------------


def test_the_learning_rate_drops_after_the_given_epochs():
    rates = []

    def make(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        original = optimizer.step

        def step():
            optimizer.param_groups[0]["lr"] = 0.1 / 10 ** ((len(rates) >= 5) + (len(rates) >= 10))
            rates.append(optimizer.param_groups[0]["lr"])
            original()

        optimizer.step = step
        return optimizer

    found = trainer_of().fit(start_of(), DATA, KEY, seed=SEED, decay_epochs=(1, 2))
    np.testing.assert_allclose(found, by_hand("linear", batches_of(), make), rtol=0, atol=1e-7)
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.01] * 5 + [0.001] * 5)


def test_on_batch_changes_what_is_trained_on():
    seen = []

    def flip(images, labels, step):
        seen.append((step, len(labels)))
        return 1 - images, 2 - labels

    found = trainer_of().fit(start_of(), DATA, KEY, seed=SEED, on_batch=flip)
    assert seen == [(step, 2 if step % 5 == 4 else 5) for step in range(15)]
    flipped = ClientData(1 - DATA.images, 2 - DATA.labels)
    np.testing.assert_array_equal(found, trainer_of().fit(start_of(), flipped, KEY, seed=SEED))


def test_loss_fn_replaces_the_loss_and_sees_the_starting_point():
    def proximal(trainer, images, labels):
        drift = torch.cat([p.reshape(-1) for p in trainer.model.parameters()]) - trainer.global_vector
        return 0 * trainer.model(images).sum() + 3 * drift.square().sum() + drift.sum()

    found = trainer_of().fit(start_of(), DATA, KEY, seed=SEED, loss_fn=proximal, epochs=1, batch_size=11)
    # Two steps of x' = x - 0.1 (6 x + 1) from 0.
    np.testing.assert_allclose(found, np.full(103, -0.14), rtol=1e-5)


def test_after_backward_may_change_the_gradient():
    seen = []

    def to_ones(trainer):
        seen.append(trainer.gradient.abs().sum().item())
        trainer.gradient.fill_(1.0)

    found = trainer_of().fit(start_of(), DATA, KEY, seed=SEED, after_backward=to_ones)
    assert len(seen) == 15
    assert min(seen) > 0
    np.testing.assert_allclose(found, np.full(103, -1.5), rtol=1e-5)


def test_the_gradient_is_that_of_the_batch_alone():
    gradients = []
    trainer = trainer_of()
    trainer.fit(
        start_of(), DATA, KEY, seed=SEED, learning_rate=1e-30,
        after_backward=lambda t: gradients.append(t.gradient.clone()),
    )  # fmt: skip
    for batch, gradient in zip(batches_of(), gradients, strict=True):
        model = SmallNet().build()
        x, y = torch.from_numpy(DATA.images[batch]), torch.from_numpy(DATA.labels[batch])
        nn.functional.cross_entropy(model(x), y).backward()
        expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-7)


def test_after_step_may_change_the_parameters():
    seen = []

    def project(trainer, step, last):
        seen.append((step, last))
        drift = trainer.parameters - trainer.global_vector
        trainer.parameters.copy_(trainer.global_vector + drift.clamp(-0.01, 0.01))

    found = trainer_of().fit(start_of(), DATA, KEY, seed=SEED, after_step=project)
    assert seen == [(step, step == 14) for step in range(15)]
    assert np.abs(found).max() == pytest.approx(0.01, abs=1e-6)


def test_evaluate_counts_correct_loss_and_confidence():
    trainer = trainer_of("dropout")
    trainer.load(start_of("dropout"))
    images, labels = samples(10, seed=2)
    rows = trainer.evaluate(Dataset(images, labels), (0.5,), (0.2,), 4)
    assert rows[:, 0].tolist() == [4, 4, 2]
    model = SmallNet("dropout").build().eval()
    with torch.no_grad():
        probabilities = model((torch.from_numpy(images) - 0.5) / 0.2).double().softmax(1).numpy()
    right = probabilities[np.arange(10), labels]
    assert rows[:, 1].sum() == (probabilities.argmax(1) == labels).sum()
    np.testing.assert_allclose(rows.sum(axis=0)[2:], [-np.log(right).sum(), right.sum(), 0], rtol=1e-5)
    assert trainer.evaluate(Dataset(images[:0], labels[:0]), (0.0,), (1.0,), 4).shape == (0, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_predict_nothing(value):
    """Whatever the label: argmax would take the first of them for class 0."""
    trainer = trainer_of("linear")
    start = start_of("linear")
    start[-3] = value  # the bias of class 0
    trainer.load(start)
    images, labels = samples(10, seed=2)
    rows = trainer.evaluate(Dataset(images, np.zeros_like(labels)), (0.5,), (0.2,), 4)
    assert rows[:, 1].tolist() == [0, 0, 0]
    assert rows[:, 4].tolist() == [4, 4, 2]


def test_unknown_optimizers_are_refused():
    with pytest.raises(ConfigError, match=r"training.optimizer.name: must be one of sgd, adam, adamw"):
        FlatOptimizer(torch.zeros(2), torch.zeros(2), "lbfgs", 0.1)
