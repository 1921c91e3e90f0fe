"""GradCAM-Krum and LayerCAM-Krum: Krum's scores on maps, the winner's model, the flags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from defenses.cam_krum import map_scores
from defenses.gradcam_krum import GradCAMKrum
from defenses.layercam_krum import LayerCAMKrum
from raysim.context import Context, Setting
from raysim.defense import check_setting
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class Staged(LayerCAMKrum):
    """LayerCAM-Krum on given maps, client k's all equal to level[k]."""

    level: tuple[float, ...] = field(default=())

    def heat_maps(self, updates: Updates, ctx: Context) -> np.ndarray:
        return np.stack([np.full((1, 2), self.level[k], np.float32) for k in updates.client_ids])


@pytest.fixture
def judged(make_updates, make_context):
    def run(defense: Any, count: int) -> Any:
        updates = make_updates([[10 * k, 1] for k in range(count)])
        return defense.apply({}, updates, make_context(updates))[0]

    return run


def test_by_hand(judged) -> None:
    # Maps of 2 pixels; f = 1 of K = 5: the 2 nearest others, squared distances 2 (a - b)^2.
    verdict = judged(Staged(num_byzantine=1, level=(0.0, 0.25, 0.5, 1.0, 0.5)), 5)
    np.testing.assert_allclose(verdict.scores, [0.125 + 0.5, 0.25, 0.125, 1.0, 0.125], rtol=1e-12)
    assert verdict.weights.tolist() == [0, 0, 1, 0, 0], "of equal scores the first wins"
    assert verdict.aggregate.tolist() == [20, 1], "the winner's update, whole"
    assert verdict.flagged.tolist() == [False, False, False, True, False]
    assert verdict.artifacts["heat_maps"].shape == (5, 1, 2)
    assert verdict.artifacts["client_ids"].tolist() == [0, 1, 2, 3, 4]


def test_maps_against_the_definition() -> None:
    maps = np.random.default_rng(0).random((9, 3, 4), np.float32)
    maps[4] = maps[1]
    flat = maps.reshape(9, 12).astype(np.float64)
    distances = ((flat[:, None] - flat) ** 2).sum(axis=2)
    expected = [np.sort(np.delete(distances[i], i))[: 9 - 2 - 2].sum() for i in range(9)]
    np.testing.assert_allclose(map_scores(maps, 2), expected, rtol=1e-9)


def test_colluders_with_equal_maps_win_once_they_are_enough(judged) -> None:
    # K = 7, f = 2: scores count 3 neighbours. Four equal zero maps are 0 apart from enough of their own.
    honest = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    few = judged(Staged(num_byzantine=2, level=(*honest[:4], 0.0, 0.0, 0.0)), 7)
    many = judged(Staged(num_byzantine=2, level=(*honest[:3], 0.0, 0.0, 0.0, 0.0)), 7)
    assert np.argmax(few.weights) < 4
    assert np.argmax(many.weights) == 3
    assert many.scores[3:].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_clients(judged, count: int) -> None:
    verdict = judged(Staged(level=(0.5, 0.5, 0.9)), count)
    assert verdict.weights.tolist() == [1, 0, 0][:count]
    assert verdict.aggregate.tolist() == [0, 1]
    assert not verdict.flagged.any()


def test_equal_maps_flag_as_many_but_never_the_winner(judged) -> None:
    verdict = judged(Staged(level=(0.5,) * 9), 9)
    assert np.argmax(verdict.weights) == 0
    assert np.flatnonzero(verdict.flagged).tolist() == [6, 7, 8]


@pytest.mark.parametrize("defense", [LayerCAMKrum, GradCAMKrum])
def test_too_few_clients_are_refused(defense) -> None:
    def setting(cohort: int, samples: int = 1) -> Setting:
        return Setting(cohort, cohort, 0, 5, 10, server_samples=samples)

    with pytest.raises(ConfigError) as caught:
        defense(num_byzantine=3).check(setting(8))
    assert (caught.value.key, caught.value.nearest) == ("num_byzantine", 2)
    defense(num_byzantine=3).check(setting(9))
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(defense(), setting(9, samples=0))
    with pytest.raises(ConfigError, match="num_byzantine"):
        defense(num_byzantine=-1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("defense", [LayerCAMKrum(num_byzantine=1), GradCAMKrum(num_byzantine=1)])
def test_a_noisy_model_gets_the_highest_score(
    defense, seed: int, tiny_model, make_updates, make_context
) -> None:
    draw = np.random.default_rng(seed)
    rows = draw.normal(0, 0.01, (6, tiny_model.layout.num_columns)).astype(np.float32)
    rows[2] += draw.uniform(1, 2, rows.shape[1])
    updates = make_updates(rows, layout=tiny_model.layout)
    context = make_context(
        updates,
        factory=tiny_model.factory,
        server_data=tiny_model.server_data,
        global_vector=tiny_model.vector,
        seed=seed,
    )
    verdict, _ = defense.apply(defense.init(context), updates, context)
    assert verdict.scores[2] > 1.5 * np.delete(verdict.scores, 2).max()  # measured: 2 to 31 times
    assert np.flatnonzero(verdict.flagged).tolist() == [2]
    winner = int(np.argmax(verdict.weights))
    assert winner == int(np.argmin(verdict.scores))
    assert verdict.aggregate.tobytes() == rows[winner, : tiny_model.layout.dim].tobytes()
