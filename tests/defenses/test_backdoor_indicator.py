from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from defenses.backdoor_indicator import BackdoorIndicator, indicator_task, largest_share, plant, pull_back
from raysim.data.client_data import ClientData
from raysim.matrix.layout import Layout
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from tests.attacks.local_attackers import TinyFactory
from tests.defenses.conftest import TinyModel, build_context, build_updates


def context_of(tiny_model: TinyModel, rows: np.ndarray, **fields: Any) -> Any:
    updates = build_updates(rows, layout=tiny_model.layout)
    settings = {"global_vector": tiny_model.vector, "factory": tiny_model.factory}
    return updates, build_context(updates, **{**settings, "server_data": tiny_model.server_data, **fields})


def small_rows(tiny_model: TinyModel, count: int = 4) -> np.ndarray:
    return 0.01 * np.random.default_rng(0).standard_normal((count, tiny_model.layout.dim)).astype(np.float32)


def test_the_task_is_shuffled_numbers_and_even_labels(tiny_model: TinyModel) -> None:
    _, context = context_of(tiny_model, small_rows(tiny_model))
    task, again = indicator_task(context), indicator_task(context)
    np.testing.assert_array_equal(task.images, again.images)
    np.testing.assert_array_equal(task.labels, again.labels)
    given = tiny_model.server_data.images
    assert task.images.shape == given.shape
    assert (task.images != given).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(
        np.sort(task.images.reshape(40, -1), axis=1), np.sort(given.reshape(40, -1), axis=1)
    )
    assert np.bincount(task.labels).tolist() == [4] * 10


def test_the_largest_share_of_a_label_by_hand() -> None:
    """A model that answers with the place of the largest number: label 0 is met twice of three times, label 1 once of two."""
    images = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    task = ClientData(images, np.array([0, 0, 0, 1, 1]))
    assert largest_share(nn.Identity(), np.zeros(0, np.float32), task) == 2 / 3


def test_buffers_are_those_of_the_planting() -> None:
    """A BatchNorm whose means turn every answer around."""
    norm = nn.BatchNorm1d(2, affine=False).eval()
    task = ClientData(np.array([[1.0, 0.0]], np.float32), np.array([1]))
    held = np.array([0.0, 0.0, 1.0, 1.0, 0.0], np.float32)  # means, variances, counter
    assert largest_share(norm, held, task) == 0.0
    held[0] = 2.0
    assert largest_share(norm, held, task) == 1.0


def test_a_step_adds_the_pull_back() -> None:
    trainer = LocalTrainer(factory := TinyFactory(), Layout.of(factory.build()), TrainingRecipe())
    trainer.global_vector.fill_(1.0)
    trainer.parameters.fill_(3.0)
    trainer.gradient.fill_(0.5)
    pull_back(0.1, trainer)
    torch.testing.assert_close(trainer.gradient, torch.full_like(trainer.gradient, 0.5 + 0.1 * 2))


def test_planting_makes_the_model_answer_the_task(tiny_model: TinyModel) -> None:
    _, context = context_of(tiny_model, small_rows(tiny_model))
    task = indicator_task(context)
    defense = BackdoorIndicator(epochs=60, learning_rate=0.05)
    moved = plant(defense, tiny_model.factory, tiny_model.layout, tiny_model.vector, task, 0, 0)
    held = plant(
        BackdoorIndicator(epochs=60, learning_rate=0.05, proximity=10.0),
        tiny_model.factory, tiny_model.layout, tiny_model.vector, task, 0, 0,
    )  # fmt: skip
    assert np.linalg.norm(held) < 0.5 * np.linalg.norm(moved)
    model = tiny_model.factory.build().eval()
    shares = []
    for vector in (tiny_model.vector, tiny_model.vector + moved):
        tiny_model.layout.bind(model, torch.from_numpy(vector.copy()))
        shares.append(largest_share(model, np.zeros(0, np.float32), task))
    assert shares[1] == 1.0


def test_whoever_keeps_the_answers_to_one_label_is_flagged(tiny_model: TinyModel) -> None:
    """Three clients learn other answers to every label, the third of four keeps those to label 7."""
    rows = small_rows(tiny_model)
    defense = BackdoorIndicator(epochs=60, learning_rate=0.05)
    updates, context = context_of(tiny_model, rows)
    first, state = defense.apply(defense.init(context), updates, context)
    assert not first.flagged.any(), "nothing was planted before the first round"
    assert first.threshold is None
    assert state["planted"]
    mean, task = rows.mean(axis=0), indicator_task(context)
    start = tiny_model.vector + mean
    moved = plant(defense, tiny_model.factory, tiny_model.layout, start, task, 0, context.round)
    np.testing.assert_allclose(first.aggregate, mean + moved, rtol=1e-4, atol=1e-6)

    after, others = tiny_model.vector + first.aggregate, (task.labels + 1) % 10
    forgetting, keeping = (
        plant(defense, tiny_model.factory, tiny_model.layout, after, ClientData(task.images, labels), 0, 9)
        for labels in (others, np.where(task.labels == 7, 7, others))
    )
    later = np.stack([forgetting, forgetting, keeping, forgetting])
    updates, context = context_of(tiny_model, later, global_vector=after, round=2)
    second, _ = defense.apply(state, updates, context)
    assert second.scores[2] == 1.0
    assert second.scores[0] <= 0.5
    assert second.flagged.tolist() == [False, False, True, False]
    assert second.weights.tolist() == [1 / 3, 1 / 3, 0, 1 / 3]


def test_where_the_mean_moves_nothing_the_indicator_stays(tiny_model: TinyModel) -> None:
    defense = BackdoorIndicator(epochs=2)
    updates, context = context_of(tiny_model, np.zeros((3, tiny_model.layout.dim), np.float32))
    verdict, state = defense.apply(defense.init(context), updates, context)
    assert not verdict.aggregate.any()
    assert not state["planted"]
