"""FLTrust by hand, and with a server update that is really trained."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from defenses import fltrust
from defenses.fltrust import FLTrust
from raysim.backends.base import InProcessBackend
from raysim.context import Setting
from raysim.data.client_data import ClientData
from raysim.defense import check_setting
from raysim.errors import ConfigError
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe


@pytest.fixture
def judge(make_updates, make_context, tiny_model, monkeypatch):
    """judge(U, u_0, defense, **cut) -> Verdict, with the server's update given instead of trained."""

    def apply(rows, reference, defense=FLTrust(), **cut):
        updates = make_updates(rows, **cut)
        context = make_context(updates, factory=tiny_model.factory, server_data=tiny_model.server_data)
        monkeypatch.setattr(fltrust, "train_on_server", lambda *args: np.array([*reference, 7.0], np.float32))
        verdict, state = defense.apply({}, updates, context)
        assert state == {}
        return verdict

    return apply


def test_three_clients_by_hand(judge) -> None:
    # u_0 has length 5; cosines 1, 0.6 and -1; lengths 10, 1 and 5
    verdict = judge([[0, 6, 8], [0, 1, 0], [0, -3, -4]], [0, 3, 4])
    np.testing.assert_allclose(verdict.weights, [1 / 1.6, 0.6 / 1.6, 0])
    np.testing.assert_allclose(verdict.scores, [0, 0.4, 2], atol=1e-15)
    assert verdict.flagged.tolist() == [False, False, True]
    # (1 * (0, 3, 4) + 0.6 * (0, 5, 0)) / 1.6
    np.testing.assert_allclose(verdict.aggregate, [0, 3.75, 2.5], rtol=1e-6)


@pytest.mark.parametrize(
    ("rows", "reference"),
    [
        ([[0, -1, 0], [0, 0, -2]], [0, 1, 1]),
        ([[0, 0, 0], [1, 0, 0]], [0, 1, 1]),
        ([[1, 2, 3]] * 2, [0, 0, 0]),
    ],
)
def test_nobody_trusted_keeps_the_global_model(judge, rows, reference) -> None:
    verdict = judge(rows, reference)
    assert not verdict.aggregate.any()
    assert not verdict.weights.any()
    assert verdict.flagged.all()


def test_nobody_trusted_is_the_uniform_mean_if_asked(judge) -> None:
    # At the length 5 of u_0 the updates are (0, -3, -4), (0, -5, 0) and nothing.
    verdict = judge([[0, -6, -8], [0, -1, 0], [0, 0, 0]], [0, 3, 4], FLTrust(no_trust="uniform"))
    np.testing.assert_allclose(verdict.aggregate, [0, -8 / 3, -4 / 3], rtol=1e-6)
    assert verdict.weights.tolist() == [1 / 3] * 3
    assert not verdict.flagged.any()


def test_uniform_changes_nothing_where_somebody_is_trusted(judge) -> None:
    rows, reference = [[0, 6, 8], [0, 1, 0], [0, -3, -4]], [0, 3, 4]
    keep, uniform = judge(rows, reference), judge(rows, reference, FLTrust(no_trust="uniform"))
    assert uniform.aggregate.tobytes() == keep.aggregate.tobytes()
    assert uniform.weights.tolist() == keep.weights.tolist()
    assert uniform.flagged.tolist() == [False, False, True]


def test_refuses_an_unknown_choice() -> None:
    with pytest.raises(ConfigError, match=r"no_trust: must be one of keep, uniform.*'uniform'"):
        FLTrust(no_trust="uniforms")  # type: ignore[arg-type]


def test_a_single_client_passes_through(judge) -> None:
    verdict = judge([[0, -3, -4]], [0, 3, 4])
    assert verdict.aggregate.tolist() == [0, -3, -4]
    assert verdict.weights.tolist() == [1]
    assert verdict.scores.tolist() == [2]
    assert not verdict.flagged.any()


def test_however_the_matrix_is_cut(judge) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 9000)).astype(np.float32)
    reference = rows.sum(axis=0)
    first = judge(rows, reference)
    second = judge(rows, reference, rows_per_block=2, bounds=(0, 4096, 8192, 9000))
    for name in ("aggregate", "weights", "scores", "flagged"):
        assert np.array_equal(getattr(first, name), getattr(second, name))


def test_the_server_trains_by_the_clients_recipe(make_updates, make_context, tiny_model) -> None:
    recipe = TrainingRecipe(epochs=2, batch_size=8, learning_rate=0.05, momentum=0.5)
    data = tiny_model.server_data
    trainer = LocalTrainer(tiny_model.factory, tiny_model.layout, recipe)
    client = ClientData(data.images, data.labels)
    train = partial(trainer.fit, seed=0)
    reference = InProcessBackend().run("train", train, tiny_model.vector, client, ("server_update", 1))
    assert np.linalg.norm(reference) > 0.01

    updates = make_updates(np.stack([3 * reference, -reference, 0.5 * reference]), layout=tiny_model.layout)
    context = make_context(
        updates,
        global_vector=tiny_model.vector,
        factory=tiny_model.factory,
        server_data=data,
        recipe=recipe,
    )
    verdict: Any = FLTrust().apply({}, updates, context)[0]
    np.testing.assert_allclose(verdict.weights, [0.5, 0, 0.5], atol=1e-9)
    np.testing.assert_allclose(verdict.aggregate, reference, rtol=1e-5, atol=1e-9)


def test_refuses_to_start_without_server_data(make_updates, make_context, tiny_model) -> None:
    setting = Setting(population=4, cohort=4, num_malicious=1, rounds=2, num_classes=10)
    with pytest.raises(ConfigError, match=r"server_data\.samples.*nearest valid: 1"):
        check_setting(FLTrust(), setting)
    updates = make_updates([[1.0, 2.0]])
    with pytest.raises(ConfigError, match=r"server_data\.samples"):
        FLTrust().apply({}, updates, make_context(updates, factory=tiny_model.factory))
