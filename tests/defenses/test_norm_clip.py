from __future__ import annotations

import numpy as np
import pytest

from defenses.norm_clip import NormClip
from raysim.errors import ConfigError

ROWS = [[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]


def test_by_hand(apply_once):
    verdict = apply_once(NormClip(bound=2.5), ROWS)
    assert verdict.aggregate.tolist() == [0.75, 1.0, 0.5]
    assert verdict.weights.tolist() == [0.5, 0.5]
    assert verdict.scores.tolist() == [5.0, 1.0]
    assert verdict.flagged is None


def test_the_mean_norm_is_the_bound_when_none_is_given(apply_once):
    np.testing.assert_allclose(apply_once(NormClip(bound=None), ROWS).aggregate, [0.9, 1.2, 0.5], rtol=1e-6)


def test_noise_has_the_given_deviation_and_depends_on_the_round(make_updates, make_context):
    updates = make_updates(np.zeros((2, 20_000)))
    draws = [
        NormClip(noise_std=0.5).apply({}, updates, make_context(updates, round=number))[0].aggregate
        for number in (1, 1, 2)
    ]
    assert draws[0].std() == pytest.approx(0.5, rel=0.03)
    assert draws[0].mean() == pytest.approx(0, abs=0.02)
    assert draws[0].dtype == np.float32
    assert (draws[0] == draws[1]).all()
    assert abs(np.corrcoef(draws[0], draws[2])[0, 1]) < 0.05


def test_noise_on_clients_is_averaged_with_their_shares(make_updates, make_context):
    updates = make_updates(np.zeros((2, 20_000)), num_examples=[3, 1])
    on_aggregate, on_clients = (
        NormClip(noise_std=0.5, noise_on=place).apply({}, updates, make_context(updates))[0].aggregate
        for place in ("aggregate", "clients")
    )
    # independent noises of variance 1/4 with shares 3/4 and 1/4: (9/16 + 1/16) / 4
    assert on_clients.std() == pytest.approx(np.sqrt(10 / 64), rel=0.03)
    np.testing.assert_allclose(on_clients, on_aggregate * np.sqrt(10 / 16), rtol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"bound": 0.0},
        {"bound": float("inf")},
        {"noise_std": -0.1},
        {"noise_std": float("nan")},
        {"noise_std": float("inf")},
        {"noise_on": "client"},
    ],
)
def test_ranges(wrong):
    with pytest.raises(ConfigError) as caught:
        NormClip(**wrong)
    assert caught.value.key in wrong
