"""GradCAM-AE and LayerCAM-AE: errors, threshold, votes over rounds, what is averaged, and what they catch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from defenses.autoencoder import error_threshold, reconstruct, reconstruction_errors
from defenses.gradcam_ae import GradCAMAE
from defenses.layercam_ae import LayerCAMAE
from defenses.voting import no_suspicions
from raysim.backends.base import InProcessBackend
from raysim.context import Context, Setting, State
from raysim.data.client_data import ClientData
from raysim.defense import check_setting
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.rng import generator
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe

USUAL = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
STRANGE = np.float32(1) - USUAL


@dataclass(frozen=True)
class Staged(LayerCAMAE):
    """LayerCAM-AE on given maps: of all clients the same one, but its opposite of those in strange[round]."""

    strange: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def init(self, ctx: Context) -> State:
        return no_suspicions()

    def heat_maps(self, updates: Updates, ctx: Context) -> np.ndarray:
        odd = self.strange.get(ctx.round, ())
        return np.stack([STRANGE if client in odd else USUAL for client in updates.client_ids])


@pytest.fixture
def play(make_updates, make_context):
    """play(defense, cohorts, state=None) -> (the verdict of every round, the last state); client k sends (k, 1)."""

    def run(defense: Any, cohorts: list[list[int]], state: Any = None, first: int = 0, **options: Any) -> Any:
        verdicts = []
        for number, ids in enumerate(cohorts, first):
            updates = make_updates([[k, 1] for k in ids], client_ids=np.array(ids), **options)
            context = make_context(updates, round=number)
            state = defense.init(context) if state is None else state
            verdict, state = defense.apply(state, updates, context)
            verdicts.append(verdict)
        return verdicts, state

    return run


def flagged(verdicts: list[Any], cohorts: list[list[int]]) -> list[list[int]]:
    return [np.array(ids)[v.flagged].tolist() for v, ids in zip(verdicts, cohorts, strict=True)]


COHORTS = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 6], [0, 1, 2, 3, 5, 6], [1, 2, 3, 4, 5, 6]]
STRANGE_IN = {0: (0,), 1: (0, 1), 2: (2,), 3: (4,)}


def test_votes_with_sampling(play) -> None:
    verdicts, state = play(Staged(interval=3, votes=2, strange=STRANGE_IN), COHORTS)
    # Rounds 1, 2 and 4: the suspects. Round 3: client 0, strange twice, instead of client 2, strange now.
    assert flagged(verdicts, COHORTS) == [[0], [0, 1], [0], [4]]
    assert [np.argmax(v.scores) for v in verdicts] == [0, 0, 2, 3], "scores are this round's errors"
    np.testing.assert_allclose(verdicts[2].weights, [0, 0.2, 0.2, 0.2, 0.2, 0.2])
    np.testing.assert_allclose(verdicts[2].aggregate, [(1 + 2 + 3 + 5 + 6) / 5, 1], rtol=1e-6)
    assert state["rounds"].tolist() == [2, 3, 4]


def test_without_votes_every_rounds_suspects_are_dropped(play) -> None:
    verdicts, _ = play(Staged(interval=1, votes=1, strange=STRANGE_IN), COHORTS)
    assert flagged(verdicts, COHORTS) == [[0], [0, 1], [2], [4]]


def test_bans_last(play) -> None:
    cohorts = [*COHORTS, COHORTS[0]]
    verdicts, state = play(Staged(interval=3, votes=2, permanent=True, strange=STRANGE_IN), cohorts)
    assert flagged(verdicts, cohorts) == [[0], [0, 1], [0], [4], [0]]
    assert state["banned"].tolist() == [0]
    assert flagged(play(Staged(strange=STRANGE_IN), cohorts)[0], cohorts)[-1] == []


def test_state_survives_a_round_trip(play) -> None:
    defense = Staged(interval=3, votes=2, permanent=True, strange=STRANGE_IN)
    whole, last = play(defense, COHORTS)
    _, half = play(defense, COHORTS[:2])
    resumed, also_last = play(defense, COHORTS[2:], state=pickle.loads(pickle.dumps(half)), first=2)
    for verdict, again in zip(whole[2:], resumed, strict=True):
        assert verdict.aggregate.tobytes() == again.aggregate.tobytes()
        assert verdict.flagged.tolist() == again.flagged.tolist()
    assert all(np.array_equal(last[key], also_last[key]) for key in last)


def test_all_flagged_leaves_the_global_model(play) -> None:
    state = {**no_suspicions(), "banned": np.arange(6)}
    (verdict,), _ = play(Staged(permanent=True), COHORTS[:1], state=state)
    assert verdict.flagged.all()
    assert verdict.weights.tolist() == [0] * 6
    assert verdict.aggregate.tolist() == [0, 0]


@pytest.mark.parametrize(("weights", "expected"), [("data", [0, 1 / 2, 1 / 4, 1 / 4]), ("uniform", [0, 1 / 3, 1 / 3, 1 / 3])])  # fmt: skip
def test_weights_follow_the_data_or_nobody(play, weights: str, expected: list[float]) -> None:
    defense = Staged(weights=weights, strange={0: (0,)})  # type: ignore[arg-type]
    (verdict,), _ = play(defense, [[0, 1, 2, 3]], num_examples=np.array([7, 4, 2, 2]))
    np.testing.assert_allclose(verdict.weights, expected)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_equal_maps_are_all_accepted(play, count: int) -> None:
    (verdict,), _ = play(Staged(), [list(range(count))])
    assert not verdict.flagged.any()
    np.testing.assert_allclose(verdict.weights, 1 / count)


def test_half_the_clients_cannot_be_flagged_at_beta_one(play) -> None:
    cohort = [list(range(24))]
    for strange, wanted in (((0, 1, 2), [0, 1, 2]), (tuple(range(12)), [])):
        # abs errors of equal maps are equal, and 12 of 24 outliers lie exactly one deviation above the mean
        verdicts, _ = play(Staged(beta=1.0, strange={0: strange}), cohort)
        assert flagged(verdicts, cohort) == [wanted]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "error": "square",
            "std": "sample",
            "beta": 1.5,
            "epochs": 30,
            "hidden": 9,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
        },
    ],
)
def test_scores_are_the_kernels_errors(play, options: dict) -> None:
    defense = Staged(**options, interval=1, votes=1, strange={0: (3,)})
    (verdict,), _ = play(defense, COHORTS[:1])
    maps, rebuilt = verdict.artifacts["heat_maps"], verdict.artifacts["reconstructed_maps"]
    assert maps.shape == rebuilt.shape == (6, 4, 4)
    assert rebuilt.dtype == np.float32
    assert verdict.artifacts["client_ids"].tolist() == COHORTS[0]
    errors = reconstruction_errors(maps.reshape(6, 16), rebuilt.reshape(6, 16), options.get("error", "abs"))
    np.testing.assert_array_equal(verdict.scores, errors)
    limit = error_threshold(errors, options.get("beta", 1.0), options.get("std", "population"))
    assert verdict.flagged.tolist() == (errors > limit).tolist()
    names = ("hidden", "epochs", "learning_rate", "weight_decay")
    own = {name: getattr(defense, name) for name in names}
    seed = int(generator(0, "defense", 0, "autoencoder").integers(2**63))
    expected = InProcessBackend(threads=1).run(
        "test", partial(reconstruct, seed=seed, **own), maps.reshape(6, 16)
    )
    assert rebuilt.tobytes() == expected.tobytes()


def test_fresh_weights_each_round_from_the_seed_alone(play) -> None:
    defense = Staged(strange={0: (0,), 1: (0,)})
    (first, second), _ = play(defense, [COHORTS[0], COHORTS[0]])
    (again,), _ = play(defense, [COHORTS[0]])
    assert first.scores.tobytes() == again.scores.tobytes()
    assert first.scores.tobytes() != second.scores.tobytes()


@pytest.mark.parametrize(
    ("options", "key", "nearest"),
    [
        ({"beta": -0.1}, "beta", 0.0),
        ({"beta": float("nan")}, "beta", 0.0),
        ({"hidden": 0}, "hidden", 1),
        ({"epochs": 0}, "epochs", 1),
        ({"learning_rate": 0.0}, "learning_rate", 1e-3),
        ({"weight_decay": -1.0}, "weight_decay", 0.0),
        ({"interval": 0, "votes": 1}, "interval", 1),
        ({"votes": 0}, "votes", 1),
        ({"votes": 4}, "votes", 3),
        ({"error": "absolute"}, "error", "abs"),
        ({"std": "populaton"}, "std", "population"),
        ({"weights": "equal"}, "weights", None),
        ({"probe": "fix"}, "probe", "fixed"),
    ],
)
def test_options_out_of_range(options: dict, key: str, nearest: object) -> None:
    with pytest.raises(ConfigError) as caught:
        LayerCAMAE(**options)
    assert caught.value.key == key
    assert caught.value.nearest == nearest


def test_a_run_too_short_to_vote_is_told_so() -> None:
    def setting(rounds: int, samples: int = 1) -> Setting:
        return Setting(9, 9, 0, rounds, 10, server_samples=samples)

    check_setting(LayerCAMAE(), setting(2))
    assert LayerCAMAE().remarks(setting(2)) == (
        "LayerCAMAE votes every 3 rounds, and the run has 2: no vote takes place; suspects are judged round by"
        " round (interval <= 2 would vote)",
    )
    assert LayerCAMAE().remarks(setting(3)) == GradCAMAE().remarks(setting(1)) == ()
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        check_setting(GradCAMAE(), setting(9, samples=0))


# What they catch: 23 honest clients that trained a little further from a trained model, and one attacker.


@dataclass(frozen=True)
class Scene:
    """A trained global vector, and the honest updates of 24 clients."""

    vector: np.ndarray
    honest: np.ndarray


@pytest.fixture(scope="module")
def scene(tiny_model) -> Scene:
    return InProcessBackend(threads=1).run("train", trained, tiny_model)


def trained(tiny_model: Any) -> Scene:
    data = tiny_model.server_data
    trainer = LocalTrainer(tiny_model.factory, tiny_model.layout, TrainingRecipe(batch_size=8))
    everything = ClientData(data.images, data.labels)
    vector = tiny_model.vector + trainer.fit(tiny_model.vector, everything, (0, "all"), seed=0, epochs=60)
    rows = []
    for client in range(24):
        own = np.random.default_rng(client).choice(len(data), 20, replace=False)
        part = ClientData(data.images[own], data.labels[own])
        rows.append(trainer.fit(vector, part, (1, client), seed=0, epochs=1, learning_rate=0.01))
    return Scene(vector, np.stack(rows))


def noisy(base: np.ndarray, seed: int) -> np.ndarray:
    """The noise attack on CAM defenses: U(1, 2) on every weight and bias of a benign model."""
    return base + np.random.default_rng(seed).uniform(1, 2, base.shape).astype(np.float32)


@pytest.fixture
def judged(tiny_model, scene, make_updates, make_context):
    def run(defense: Any, attacker: int, row: np.ndarray, seed: int, **options: Any) -> Any:
        rows = scene.honest.copy()
        rows[attacker] = row
        updates = make_updates(rows, layout=tiny_model.layout, **options)
        context = make_context(
            updates,
            factory=tiny_model.factory,
            server_data=tiny_model.server_data,
            global_vector=scene.vector,
            seed=seed,
            round=0,
        )
        return defense.apply(defense.init(context), updates, context)[0]

    return run


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("defense", "margin"), [(GradCAMAE(), 4.0), (LayerCAMAE(), 1.05)])
def test_a_noisy_model_stands_out_among_honest_ones(judged, scene, defense, margin: float, seed: int) -> None:
    # Measured on seeds 0 to 7: 10 times the next highest error for GradCAM-AE, 1.2 to 3 times for LayerCAM-AE.
    attacker = 5 * seed
    verdict = judged(defense, attacker, noisy(scene.honest[attacker], seed), seed)
    assert verdict.scores[attacker] > margin * np.delete(verdict.scores, attacker).max()
    assert verdict.flagged.tolist() == [client == attacker for client in range(24)]
    assert verdict.weights[attacker] == 0


@pytest.mark.parametrize("defense", [GradCAMAE(), LayerCAMAE()])
def test_an_exploded_model_has_a_zero_map_and_stands_out(judged, scene, defense) -> None:
    verdict = judged(defense, 7, np.full(scene.honest.shape[1], 1e30), seed=0)
    assert not verdict.artifacts["heat_maps"][7].any()
    assert verdict.artifacts["heat_maps"].any(axis=(1, 2)).sum() == 23
    assert np.flatnonzero(verdict.flagged).tolist() == [7]
    assert np.isfinite(verdict.aggregate).all()


def test_the_two_differ_in_their_maps_alone(judged, scene) -> None:
    row = noisy(scene.honest[0], 0)
    layer, grad = (
        judged(defense(interval=3, votes=2), 0, row, seed=0) for defense in (LayerCAMAE, GradCAMAE)
    )
    assert not np.allclose(layer.artifacts["heat_maps"], grad.artifacts["heat_maps"])
    assert LayerCAMAE(interval=1, votes=1) != GradCAMAE()
    assert {**vars(LayerCAMAE()), "interval": 1, "votes": 1} == vars(GradCAMAE())
