"""DAGMM: mixtures and energies against closed forms, and who is dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from defenses.dagmm import DAGMM, energies, mixture_of
from raysim.context import Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError


def test_mixture_by_hand() -> None:
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]], dtype=torch.float64)
    membership = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    shares, means, covariances = mixture_of(points, membership)
    assert shares.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert means.tolist() == [[1, 0], [5, 5]]
    expected = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(covariances, expected + 1e-6 * torch.eye(2, dtype=torch.float64))


def test_energies_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(6, 3))
    shares, means = np.array([0.3, 0.7]), draw.normal(size=(2, 3))
    roots = draw.normal(size=(2, 3, 3))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(3)
    density = sum(
        share * multivariate_normal(mean, covariance).pdf(points)
        for share, mean, covariance in zip(shares, means, covariances, strict=True)
    )
    ours = energies(*map(torch.from_numpy, (points, shares, means, covariances)))
    np.testing.assert_allclose(ours, -np.log(density), rtol=1e-9)


def test_energies_far_away_stay_finite() -> None:
    points = torch.full((1, 2), 1e5, dtype=torch.float64)
    single = (
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 2, dtype=torch.float64),
        1e-6 * torch.eye(2)[None],
    )
    assert energies(points, single[0], single[1], single[2].double()).item() == pytest.approx(1e16, rel=1e-3)


def test_drops_the_outlier(
    make_updates: Callable, make_context: Callable, tiny_model: Any, judge: Callable
) -> None:
    rows = 1e-4 * np.random.default_rng(0).normal(size=(8, tiny_model.layout.dim))
    rows[5] *= 3000
    updates = make_updates(rows, layout=tiny_model.layout, rows_per_block=3)
    ctx = make_context(
        updates,
        factory=tiny_model.factory,
        server_data=tiny_model.server_data,
        global_vector=tiny_model.vector,
    )
    settings: dict = {"hidden": 16, "estimator": 8, "epochs": 60, "num_snapshots": 12, "learning_rate": 1e-3}
    defense = DAGMM(num_byzantine=1, **settings)
    state = defense.init(ctx)
    verdict, _ = judge(defense, state, updates, ctx)
    assert np.flatnonzero(verdict.flagged).tolist() == [5]
    again, _ = judge(defense, defense.init(ctx), updates, ctx)
    np.testing.assert_array_equal(again.scores, verdict.scores)
    half, _ = judge(DAGMM(**settings), state, updates, ctx)
    assert half.flagged.sum() == 3
    projected = DAGMM(surrogate="all", surrogate_size=50, **settings)
    verdict, _ = judge(projected, projected.init(ctx), updates, ctx)
    assert np.isfinite(verdict.scores).all()


def test_needs_server_data_and_somebody_left() -> None:
    setting = Setting(population=10, cohort=10, num_malicious=2, rounds=5, num_classes=10)
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(DAGMM(), setting)
    with pytest.raises(ConfigError, match="num_byzantine"):
        DAGMM(num_byzantine=10).check(setting)


@pytest.mark.parametrize(
    "wrong", [{"components": 0}, {"energy_weight": -1.0}, {"covariance_weight": -1.0}, {"learning_rate": 0.0}]
)
def test_refuses(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DAGMM(**wrong)
