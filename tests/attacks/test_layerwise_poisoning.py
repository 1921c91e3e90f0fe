from __future__ import annotations

import numpy as np
import pytest

from attacks.layerwise_poisoning import LayerwisePoisoning, critical_layers, layers_of, success
from raysim.errors import ConfigError
from tests.attacks.local_attackers import client_context, client_data, honest_training, tiny_trainer

LAYERS = {"one": [slice(0, 1)], "two": [slice(1, 2), slice(3, 4)], "three": [slice(2, 3)]}
BENIGN, MALICIOUS = np.zeros(5), np.ones(5)


@pytest.mark.parametrize(
    ("worth", "threshold", "expected"),
    [
        # Success is the sum of what malicious entries are worth; column 4, a buffer, is substituted with no layer.
        ([0.1, 0.3, 0.2, 0.4, 0.0], 0.7, ["two"]),
        ([0.1, 0.3, 0.2, 0.4, 0.0], 0.9, ["two", "three"]),
        ([0.1, 0.3, 0.2, 0.4, 0.0], 1.0, ["two", "three", "one"]),
        ([0.5, 0.0, 0.5, 0.0, 0.0], 0.5, ["one"]),  # of equal ones the first
        ([0.0, 0.0, 0.0, 0.0, 0.0], 0.95, ["one"]),  # without a backdoor one layer
    ],
)
def test_layers_are_taken_by_what_their_loss_costs(worth, threshold, expected) -> None:
    rates = np.array(worth)

    def rate(update: np.ndarray) -> float:
        return round(float(rates @ update), 9)

    assert critical_layers(rate, BENIGN, MALICIOUS, LAYERS, threshold) == expected


def test_a_layer_that_works_only_with_another_is_found() -> None:
    """The backdoor needs both of two layers: each one's loss ends it, and either alone does nothing."""
    calls = []

    def rate(update: np.ndarray) -> float:
        calls.append(update.copy())
        return float(update[0] * update[2])

    assert critical_layers(rate, BENIGN, MALICIOUS, LAYERS, 0.95) == ["one", "three"]
    # The malicious model, each layer of it replaced, then one and two malicious layers in the benign model.
    found = [call.tolist() for call in calls]
    assert found[1:4] == [[0, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1]]
    assert found[4:] == [[1, 0, 0, 0, 0], [1, 0, 1, 0, 0]]


def test_layers_are_modules() -> None:
    assert list(layers_of(tiny_trainer().layout)) == ["1", "4"]
    names = layers_of(tiny_trainer(batch_norm=True).layout)
    assert list(names) == ["1", "2", "4"]
    assert [part.stop - part.start for part in names["1"]] == [64 * 6, 6]


@pytest.mark.parametrize("batch_norm", [False, True])
def test_only_critical_layers_differ_from_the_honest_update(batch_norm: bool) -> None:
    ctx = client_context(tiny_trainer(batch_norm=batch_norm))
    data = client_data(24)
    attack = LayerwisePoisoning(poisoned_data_rate=0.5, epochs=8, threshold=0.5)
    update = attack.train(honest_training(ctx), data, ctx)
    honest = honest_training(ctx)(data)
    ((said),) = ctx.notes
    critical = said.removeprefix("critical layers: ").split(", ")
    layers = layers_of(ctx.layout)
    assert 0 < len(critical) < len(layers)
    changed = {name for name, parts in layers.items() if any((update[p] != honest[p]).any() for p in parts)}
    assert changed == set(critical)
    np.testing.assert_array_equal(update[ctx.layout.dim :], honest[ctx.layout.dim :])


def test_strength_mixes_and_scale_multiplies() -> None:
    data = client_data(24)
    updates = []
    for options in ({}, {"strength": 0.25}, {"strength": 1.5}, {"scale": 3.0}):
        ctx = client_context(tiny_trainer())
        updates.append(LayerwisePoisoning(epochs=4, **options).train(honest_training(ctx), data, ctx))
    full, quarter, more, scaled = updates
    honest = honest_training(client_context(tiny_trainer()))(data)
    np.testing.assert_allclose(quarter, 0.25 * full + 0.75 * honest, atol=1e-6)
    changed = full != honest
    np.testing.assert_allclose(more[changed], 1.5 * full[changed], atol=1e-6)
    np.testing.assert_allclose(scaled, 3 * full, rtol=1e-6)


def test_success_is_the_share_taken_for_the_target() -> None:
    ctx = client_context(tiny_trainer())
    images = client_data(24).images
    shares = [success(ctx, ctx.global_vector, images, target) for target in range(4)]
    assert sum(shares) == pytest.approx(1)
    assert success(ctx, ctx.global_vector, images[:0], 0) == 0


def test_a_client_without_data_is_honest() -> None:
    ctx = client_context(tiny_trainer())
    assert not LayerwisePoisoning().train(honest_training(ctx), client_data(0), ctx).any()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError):
        LayerwisePoisoning(threshold=1.5)
