"""DeepSight: its three views by hand, its clusters, and whole rounds on a small model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from defenses.client_models import bound_model
from defenses.deepsight import (
    DeepSight,
    NoiseImages,
    client_differences,
    ensemble_clusters,
    image_shape,
    normalised_energies,
    one_sided,
    suspicious_share,
)
from raysim.context import ServerData
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout

FAST = DeepSight(samples=30, seeds=2)


@pytest.fixture
def judge(make_updates, make_context, tiny_model):
    """judge(defense, deltas, **cut) -> verdict on the small model."""

    def apply(defense: DeepSight, deltas: Any, **cut: Any):
        updates = make_updates(deltas, layout=tiny_model.layout, **cut)
        context = make_context(updates, global_vector=tiny_model.vector, factory=tiny_model.factory)
        verdict, state = defense.apply({}, updates, context)
        assert state == {}
        return verdict

    return apply


@pytest.fixture
def cohort(tiny_model) -> np.ndarray:
    """Seven clients that move all ten classes, then three whose last layers move one class the same way."""
    draw, layout = np.random.default_rng(0), tiny_model.layout
    rows = np.zeros((10, layout.num_columns), np.float32)
    weight, bias = layout.view(rows, "head.weight"), layout.view(rows, "head.bias")
    common = draw.normal(size=(10, weight.shape[2]))
    weight[:7] = 0.05 * (common + 0.2 * draw.normal(size=(7, *common.shape)))
    bias[:7] = 0.05 * (draw.normal(size=10) + 0.2 * draw.normal(size=(7, 10)))
    weight[7:, 4] = 0.3 + 0.01 * draw.normal(size=(3, weight.shape[2]))
    bias[7:, 4] = 0.3 + 0.01 * draw.normal(size=3)
    for name, values in (("head.weight", weight), ("head.bias", bias)):  # the views may be copies
        entry = layout.entry(name)
        rows[:, entry.start : entry.stop] = values.reshape(10, -1)
    return rows


def test_energies_by_hand() -> None:
    weight = np.array([[[1, -2], [0, 0], [0.5, 0]], np.zeros((3, 2))])
    bias = np.array([[-1, 2, 0], [0, 0, 0]])
    # energies 4, 2 and .5; their squares over 20.25
    expected = np.array([[16, 4, 0.25], [0, 0, 0]]) / 20.25
    np.testing.assert_allclose(normalised_energies(weight, bias), expected)


def test_one_sided_updates_by_hand() -> None:
    # three classes: exceeding a third of the largest; 3, 2, 3 and 1 do, half the median is 1.25
    energies = np.array([[0.4, 0.3, 0.3], [0.5, 0.4, 0.1], [0.34, 0.33, 0.33], [0.9, 0.1, 0.0]])
    assert one_sided(energies).tolist() == [False, False, False, True]
    # two hundred classes: the floor of one hundredth applies
    flat = np.full((2, 200), 1.0)
    flat[1, 1:] = 0.009
    assert one_sided(flat).tolist() == [False, True]


def test_suspicious_shares_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, -1, -1])
    suspicious = np.array([True, False, False, True, True, True, False])
    np.testing.assert_allclose(suspicious_share(labels, suspicious), [1 / 3, 1 / 3, 1 / 3, 1, 1, 1, 0])


def test_clusters_that_all_views_agree_on() -> None:
    side = np.repeat([0.0, 1.0], 4)
    jitter = 0.01 * np.arange(8)
    cosine = np.abs((side + jitter)[:, None] - (side + jitter))
    points = np.stack([side + jitter, jitter], axis=1)
    labels = ensemble_clusters([cosine, points, points, points], 3, 3)
    assert len(set(labels[:4])) == len(set(labels[4:])) == 1
    assert labels[0] != labels[4]
    points[7] = np.nan  # a client without a finite view is in none of its clusters
    assert ensemble_clusters([cosine, points, points, points], 3, 3)[:4].tolist() == labels[:4].tolist()


def test_too_few_for_a_cluster_are_outside_all() -> None:
    assert ensemble_clusters([np.zeros((2, 2)), np.zeros((2, 3)), np.zeros((2, 3))], 3, 3).tolist() == [
        -1,
        -1,
    ]


def test_noise_is_the_same_every_time_and_differs_between_sets() -> None:
    noise = NoiseImages(seed=0, seeds=2, samples=1001, shape=(1, 2, 2))
    sizes = [len(batch) for batch in noise.batches(0)]
    assert sizes == [500, 500, 1]
    first, again, other = (torch.cat(list(noise.batches(number))) for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0 <= first.min() < 0.01 < 0.99 < first.max() < 1


def test_division_differences_against_the_models(make_updates, make_context, tiny_model, cohort) -> None:
    cohort[0] = 0
    updates = make_updates(cohort, layout=tiny_model.layout)
    context = make_context(updates, global_vector=tiny_model.vector, factory=tiny_model.factory)
    differences = FAST.division_differences(updates, context)
    assert differences.shape == (10, 2, 10)
    np.testing.assert_allclose(differences[0], 1)
    noise = NoiseImages(0, 2, 30, (1, 8, 8))
    images = torch.cat(list(noise.batches(1)))
    ours, theirs = (
        bound_model(tiny_model.factory, tiny_model.layout, tiny_model.vector + row)(images)
        .softmax(1)
        .double()
        for row in (cohort[8], cohort[0])
    )
    expected = ((ours + 1e-6) / (theirs + 1e-6)).mean(0)
    np.testing.assert_allclose(differences[8, 1], expected.numpy(), rtol=1e-5)


class Affine(nn.Module):
    """Outputs (2 x + shift, -1) for an image of one pixel x."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixel = images.flatten(1)
        return torch.cat([2 * pixel + self.shift, -torch.ones_like(pixel)], dim=1)


def test_ratios_of_raw_outputs_by_hand() -> None:
    noise = NoiseImages(seed=0, seeds=1, samples=7, shape=(1, 1, 1))
    pixels = torch.cat(list(noise.batches(0))).double().numpy().ravel()
    reference = np.full((1, 7, 2), 1e-6, np.float32)  # class 1: nothing but the offset
    reference[..., 0] -= 4.0
    found = client_differences(Affine(1.0), noise, reference, "raw")
    np.testing.assert_allclose(found, [[-(2 * pixels.mean() + 1) / 4, -1e6]], rtol=1e-6)
    same = client_differences(Affine(1.0), noise, np.array([[[1.0, -1.0]] * 7], np.float32), "softmax")
    likely = 1 / (1 + np.exp(-(2 * pixels + 2)))
    np.testing.assert_allclose(same, [[likely.mean(), -(1 - likely).mean()]], atol=3e-6)


def test_raw_division_differences_against_the_models(make_updates, make_context, tiny_model, cohort) -> None:
    updates = make_updates(cohort, layout=tiny_model.layout)
    context = make_context(updates, global_vector=tiny_model.vector, factory=tiny_model.factory)
    found = DeepSight(samples=30, seeds=2, outputs="raw").division_differences(updates, context)
    images = torch.cat(list(NoiseImages(0, 2, 30, (1, 8, 8)).batches(1)))
    theirs = bound_model(tiny_model.factory, tiny_model.layout, tiny_model.vector)(images).double()
    ours = bound_model(tiny_model.factory, tiny_model.layout, tiny_model.vector + cohort[8])(images).double()
    np.testing.assert_allclose(found[8, 1], (ours / (theirs + 1e-6)).mean(0).numpy(), rtol=1e-3)
    assert (found < 0).any()  # unlike a ratio of probabilities


def test_clients_outside_all_clusters(judge, cohort) -> None:
    pair = cohort[[0, 1]]  # too few for a cluster; neither is suspicious
    assert not judge(FAST, pair).flagged.any()
    verdict = judge(DeepSight(samples=30, seeds=2, outside="reject"), pair)
    assert verdict.flagged.all()
    assert verdict.scores.tolist() == [1, 1]
    assert not verdict.aggregate.any()
    clustered = judge(DeepSight(samples=30, seeds=2, outside="reject"), cohort)
    assert clustered.flagged.tolist() == judge(FAST, cohort).flagged.tolist() == [False] * 7 + [True] * 3


def test_one_sided_colluders_are_dropped_and_the_rest_is_clipped(judge, cohort) -> None:
    cohort[0] *= 5
    verdict = judge(FAST, cohort)
    assert verdict.flagged.tolist() == [False] * 7 + [True] * 3
    np.testing.assert_allclose(verdict.weights, [1 / 7] * 7 + [0] * 3)
    assert verdict.scores[7:].min() > verdict.scores[:7].max()
    norms = np.linalg.norm(cohort.astype(float), axis=1)
    scale = np.minimum(1, np.median(norms) / norms)
    assert scale[0] < 0.5
    np.testing.assert_allclose(verdict.aggregate, (scale[:7] / 7) @ cohort[:7], atol=1e-7)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_cohorts(judge, cohort, count: int) -> None:
    verdict = judge(FAST, cohort[:count])
    assert not verdict.flagged.any()
    assert np.isfinite(verdict.aggregate).all()
    if count == 1:
        np.testing.assert_array_equal(verdict.aggregate, cohort[0])


def test_zero_and_exploded_updates(judge, cohort) -> None:
    nothing = judge(FAST, np.zeros_like(cohort[:4]))
    assert not nothing.aggregate.any()
    cohort[3] = 1e30
    verdict = judge(FAST, cohort)
    assert np.isfinite(verdict.aggregate).all()
    assert np.isfinite(verdict.scores).all()


def test_however_the_matrix_is_cut(judge, cohort) -> None:
    first = judge(FAST, cohort)
    second = judge(FAST, cohort, rows_per_block=3, bounds=(0, 1000, first.aggregate.size))
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


@dataclass(frozen=True)
class Shapeless:
    """A model's recipe that does not tell the size of its images."""

    head: str = "1"
    num_classes: int = 3

    def build(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(6, 3))


def test_the_server_s_images_tell_the_size_of_noise(make_updates, make_context, tiny_model) -> None:
    layout = Layout.of(Shapeless().build())
    updates = make_updates(np.zeros((2, layout.dim)), layout=layout)
    data = ServerData(np.zeros((1, 1, 2, 3), np.float32), np.zeros(1, np.int64))
    assert image_shape(make_context(updates, factory=Shapeless(), server_data=data)) == (1, 2, 3)
    assert image_shape(make_context(updates, factory=tiny_model.factory, server_data=data)) == (1, 8, 8)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        FAST.apply({}, updates, make_context(updates, factory=Shapeless()))


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [("samples", 0, 1), ("seeds", 0, 1), ("min_cluster_size", 1, 2), ("min_samples", 0, 1)],
)
def test_refusals(key: str, value: Any, nearest: int) -> None:
    with pytest.raises(ConfigError) as caught:
        DeepSight(**{key: value})
    assert (caught.value.key, caught.value.nearest) == (key, nearest)


@pytest.mark.parametrize(("key", "value"), [("outputs", "logits"), ("outside", "drop")])
def test_unknown_names(key: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        DeepSight(**{key: value})
    assert caught.value.key == key
