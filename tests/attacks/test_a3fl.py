from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from attacks.a3fl import A3FL, cosine, gradient_at, in_model
from attacks.triggers import square, stamp
from raysim.attack import ClientContext
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from tests.attacks.local_attackers import client_context, client_data, honest_training, pooled, tiny_trainer


def context(**options: Any) -> ClientContext:
    """One of two colluders, who hold 24 samples each."""
    pool = pooled(client_data(24, 0), client_data(24, 1))
    settings = {"num_colluders": 2, "mean": (0.25,), "std": (0.5,), "pool": pool, "round": 3}
    return client_context(tiny_trainer(), **{**settings, **options})


def loss_of(value: np.ndarray, ctx: ClientContext, target: int) -> float:
    """The mean loss for the target with this trigger [C, m] on all that the colluders hold."""
    data = ctx.colluders_data().take(np.arange(48))
    images = data.images.copy()
    stamp(images, square(8, 8, 5, 2), in_model(value, ctx))
    return loss_at(ctx, ctx.global_vector, images, np.full(48, target, np.int64))


@torch.no_grad()
def loss_at(ctx: ClientContext, vector: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    """The mean loss of a model [d + b] on images."""
    ctx.trainer.load(vector)
    outputs = ctx.trainer.model.eval()(torch.from_numpy(images))
    return float(torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)))


def test_the_gradient_is_what_moving_a_pixel_of_all_images_changes() -> None:
    ctx = context()
    pixels = square(8, 8, 2, 2)
    images = client_data(6).images
    slope = gradient_at(torch.from_numpy(images), pixels, ctx.global_vector, 1, ctx)
    for number, (row, column) in enumerate(pixels):
        losses = []
        for step in (1e-2, -1e-2):
            moved = images.copy()
            moved[:, 0, row, column] += step
            losses.append(loss_at(ctx, ctx.global_vector, moved, np.ones(6, np.int64)))
        assert slope[0, number] == pytest.approx((losses[0] - losses[1]) / 2e-2, abs=2e-4)


def test_one_pass_without_hardening_by_hand() -> None:
    """48 samples are one batch: one step of each pixel against the sign of the gradient at grey."""
    ctx = context()
    attack = A3FL(target=1, trigger_epochs=1, trigger_rate=0.1)
    data = ctx.colluders_data().take(np.arange(48))
    images = data.images.copy()
    pixels = square(8, 8, 5, 2)
    stamp(images, pixels, (0.5 - 0.25) / 0.5)
    slope = gradient_at(torch.from_numpy(images), pixels, ctx.global_vector, 1, ctx)
    expected = np.round((0.5 - 0.1 * np.sign(slope)) * 255) / 255
    np.testing.assert_allclose(attack.trigger(ctx), expected, atol=1e-7)


def test_the_search_lowers_the_loss_and_stays_an_image() -> None:
    ctx = context()
    attack = A3FL(target=1, trigger_epochs=30, trigger_rate=0.05)
    found = attack.trigger(ctx)
    assert found.shape == (1, 25)
    assert 0 <= found.min() <= found.max() <= 1
    np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-4)
    assert loss_of(found, ctx, 1) < loss_of(np.full((1, 25), 0.5), ctx, 1)


def test_the_hardened_model_takes_part_by_its_weight() -> None:
    ctx = context()
    options: dict[str, Any] = {"target": 1, "trigger_epochs": 4, "harden_every": 2}
    alone = A3FL(**options, harden_epochs=0).trigger(ctx)
    np.testing.assert_array_equal(A3FL(**options, balance=0).trigger(ctx), alone)
    assert (A3FL(**options, balance=50.0, harden_epochs=20).trigger(ctx) != alone).any()


def test_hardening_unlearns_the_trigger() -> None:
    ctx = context()
    attack = A3FL(target=1, harden_epochs=40)
    data, pixels = ctx.colluders_data().take(np.arange(48)), square(8, 8, 5, 2)
    value = in_model(attack.trigger(ctx), ctx)
    hardened = attack.harden(data, pixels, value, ctx, 5)
    images = data.images.copy()
    stamp(images, pixels, value)
    before, after = (loss_at(ctx, vector, images, data.labels) for vector in (ctx.global_vector, hardened))
    assert after < before


def test_all_colluders_find_the_same_trigger_and_another_model_another() -> None:
    attack, ctx = A3FL(target=1, trigger_epochs=6), context()
    first = attack.trigger(ctx)
    np.testing.assert_array_equal(attack.trigger(context(client=9, colluder=1)), first)
    other = context(global_vector=-ctx.global_vector)
    assert (attack.trigger(other) != first).any()


def test_clients_stamp_what_success_is_measured_with() -> None:
    """The trigger in a poisoned batch, in a test of bytes and in one of floats is one and the same."""
    ctx = context()
    attack = A3FL(target=1, trigger_epochs=3, poisoned_data_rate=0.5)
    data = client_data(8)
    images, labels = attack.poisoning(data, ctx)(
        torch.from_numpy(data.images), torch.from_numpy(data.labels), 0
    )
    assert labels[:4].tolist() == [1] * 4
    places = square(8, 8, 5, 2).T
    stamped = images[0, 0].numpy()[tuple(places)]
    for given in (np.zeros((3, 1, 8, 8), np.uint8), np.zeros((3, 1, 8, 8), np.float32)):
        test = Dataset(given, np.ones(3, np.int64))
        shown = attack.adapt_test(test, ctx)
        scaled = shown.images / (255 if given.dtype == np.uint8 else 1)
        np.testing.assert_allclose(
            (scaled[:, 0, places[0], places[1]] - 0.25) / 0.5, [stamped] * 3, atol=1e-6
        )
        assert not test.images.any(), "the test that was given is as it was"
        assert not shown.images[:, :, :2].any()


def test_seconds_of_training_are_not_those_of_the_search() -> None:
    ctx = context()
    seen = []

    def training(data: Any, **options: Any) -> np.ndarray:
        seen.append(ctx.trainer.first_fit_s)
        return honest_training(ctx)(data, **options)

    A3FL(target=1, trigger_epochs=7).train(training, client_data(8), ctx)
    assert seen == [None]


def test_cosine() -> None:
    assert cosine(np.array([3.0, 4.0]), np.array([4.0, 3.0])) == pytest.approx(24 / 25)
    assert cosine(np.zeros(2), np.ones(2)) == 0


def test_a_square_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="from row and column 2 on") as caught:
        A3FL(patch_size=7).pixels(8, 8, None)
    assert caught.value.nearest == 6
