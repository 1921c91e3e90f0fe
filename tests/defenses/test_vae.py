"""The VAE detector: snapshots, scores against closed forms, and who is dropped."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm

from defenses.snapshots import SnapshotDetector
from defenses.vae import _VAE, VAEDetector, _score
from raysim.context import Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError

SMALL: dict[str, Any] = {"hidden": 16, "latent": 4, "epochs": 40, "num_snapshots": 12}


@pytest.fixture
def cohort(make_updates: Callable, make_context: Callable, tiny_model: Any) -> tuple[Any, Any]:
    """Eight small updates, number 5 with a last layer a hundred times as large."""
    rows = 1e-3 * np.random.default_rng(0).normal(size=(8, tiny_model.layout.dim))
    rows[5] *= 100
    updates = make_updates(rows, layout=tiny_model.layout, rows_per_block=3)
    fields = {
        "factory": tiny_model.factory,
        "server_data": tiny_model.server_data,
        "global_vector": tiny_model.vector,
    }
    return updates, make_context(updates, round=0, **fields)


def test_snapshots_are_the_last_layer_after_each_step(cohort: tuple[Any, Any], tiny_model: Any) -> None:
    _, ctx = cohort
    state, points = SnapshotDetector(num_snapshots=7).learn(ctx)
    size = 10 * 16 + 10
    assert points.shape == (7, size)
    assert state["mean"].shape == state["deviation"].shape == (size,)
    moved = state["deviation"] != 1.0
    assert moved.sum() > 50
    np.testing.assert_allclose(points[:, moved].std(axis=0), 1, rtol=1e-3)
    # the first snapshot lies nearest to the global model the training started from
    models = points * state["deviation"] + state["mean"]
    distance = np.linalg.norm(models - tiny_model.vector[-size:], axis=1)
    assert distance[0] == distance.min() > 0
    again, _ = SnapshotDetector(num_snapshots=7).learn(ctx)
    np.testing.assert_array_equal(again["mean"], state["mean"])


def test_surrogates_are_models_in_snapshot_units(cohort: tuple[Any, Any], tiny_model: Any) -> None:
    updates, ctx = cohort
    detector = SnapshotDetector(num_snapshots=3)
    state, _ = detector.learn(ctx)
    models = tiny_model.vector[-170:] + updates.to_array()[:, -170:]
    expected = (models.astype(np.float64) - state["mean"]) / state["deviation"]
    np.testing.assert_allclose(detector.points(state, updates, ctx), expected, rtol=1e-3, atol=1e-3)
    projected = SnapshotDetector(num_snapshots=3, surrogate="all", surrogate_size=32)
    state, points = projected.learn(ctx)
    assert points.shape == (3, 32)
    assert projected.points(state, updates, ctx).shape == (8, 32)


@pytest.mark.parametrize("score", ["error", "probability"])
@pytest.mark.parametrize("surrogate", ["head", "all"])
def test_drops_the_outlier(cohort: tuple[Any, Any], score: Any, surrogate: Any, judge: Callable) -> None:
    updates, ctx = cohort
    for count in (1, None):
        defense = VAEDetector(
            score=score, surrogate=surrogate, surrogate_size=200, num_byzantine=count, **SMALL
        )
        state = defense.init(ctx)
        verdict, after = judge(defense, state, updates, ctx)
        assert np.flatnonzero(verdict.flagged).tolist() == [5]
        assert after is state  # the detector is not trained again
        again, _ = judge(pickle.loads(pickle.dumps(defense)), defense.init(ctx), updates, ctx)
        np.testing.assert_array_equal(again.scores, verdict.scores)


def test_top_c_rule_has_as_many_false_alarms_as_misses(
    make_updates: Callable, make_context: Callable, tiny_model: Any, judge: Callable
) -> None:
    """With c = 20 malicious of 50 and 20 flagged, 30 FAR = 20 MAR: the identity PDRR's tables obey."""
    rows = 1e-2 * np.random.default_rng(0).normal(size=(50, tiny_model.layout.dim))
    updates = make_updates(rows, layout=tiny_model.layout)
    ctx = make_context(
        updates,
        factory=tiny_model.factory,
        server_data=tiny_model.server_data,
        global_vector=tiny_model.vector,
    )
    defense = VAEDetector(num_byzantine=20, **SMALL)
    flagged = judge(defense, defense.init(ctx), updates, ctx)[0].flagged
    assert flagged.sum() == 20
    assert flagged[20:].sum() == (~flagged[:20]).sum() > 0


def test_scores_are_those_of_the_gaussian_decoder() -> None:
    draw = np.random.default_rng(0)
    defense = VAEDetector(hidden=5, latent=2, draws=3, score="probability")
    torch.manual_seed(0)
    model = _VAE(4, 5, 2).requires_grad_(False)
    model.log_variance.copy_(torch.tensor([0.0, 1.0, -1.0, 0.5]))
    points, noise = draw.normal(size=(3, 4)).astype(np.float32), draw.normal(size=(3, 2)).astype(np.float32)
    mean, log_variance = model.encode(torch.from_numpy(points))
    deviation = np.exp(0.5 * model.log_variance.numpy())
    probability = [
        norm.logpdf(
            points, model.decoder(mean + (0.5 * log_variance).exp() * torch.from_numpy(z)).numpy(), deviation
        )
        for z in noise
    ]
    constant = 2 * np.log(2 * np.pi)
    expected = -np.mean([p.sum(axis=1) for p in probability], axis=0) - constant
    weights = torch.nn.utils.parameters_to_vector(model.parameters()).numpy()
    np.testing.assert_allclose(_score(defense, weights, points, noise), expected, rtol=1e-4)
    errors = ((points - model.decoder(mean).numpy()) ** 2).mean(axis=1)
    np.testing.assert_allclose(
        _score(VAEDetector(hidden=5, latent=2), weights, points, noise), errors, rtol=1e-5
    )


def test_needs_server_data(make_updates: Callable, make_context: Callable, tiny_model: Any) -> None:
    setting = Setting(population=10, cohort=10, num_malicious=2, rounds=5, num_classes=10)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(VAEDetector(), setting)
    updates = make_updates(np.ones((2, tiny_model.layout.dim)), layout=tiny_model.layout)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        VAEDetector().init(make_context(updates, factory=tiny_model.factory))


@pytest.mark.parametrize(
    "wrong",
    [
        {"score": "likelihood"},
        {"surrogate": "body"},
        {"surrogate_size": 0},
        {"num_snapshots": 1},
        {"hidden": 0},
        {"learning_rate": 0.0},
        {"num_byzantine": -1},
    ],
)
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        VAEDetector(**wrong)
