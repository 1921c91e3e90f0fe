"""Clients trained together: the same steps as alone, the same bytes however hosts share them out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

import raysim
from raysim.attack import Attack
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.data.client_data import ClientData
from raysim.engine.calls import split_cohort
from raysim.engine.campaigns import Campaign, Schedule
from raysim.engine.host import ClientHost, RoundOrder
from raysim.errors import ConfigError, RunError
from raysim.matrix.layout import Layout
from raysim.models import build_model
from raysim.models.recipe import ModelRecipe
from raysim.training.local import LocalTrainer
from raysim.training.recipe import TrainingRecipe
from raysim.training.stacked import (
    CohortTrainer,
    group_size,
    leaf_layers,
    obstacle,
    padded,
    stacked_forward,
    step_bytes,
)
from tests.small_models import SmallNet

DIGITS = ModelRecipe("digits_cnn", 10, (1, 8, 8), 0, {"width": 0.25})
SIZES = (7, 22, 0, 1, 10, 22)
KEYS = [("train", 3, client) for client in range(len(SIZES))]


pytestmark = pytest.mark.usefixtures("one_thread")


def clients_of(*sizes):
    draw = np.random.default_rng(6)
    return [
        ClientData(draw.random((size, 1, 8, 8), dtype=np.float32), draw.integers(0, 10, size))
        for size in sizes
    ]


def trainer_of(**recipe):
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **recipe}
    return LocalTrainer(DIGITS, Layout.of(DIGITS.build()), TrainingRecipe(**values))


def start():
    return Layout.of(DIGITS.build()).vector(DIGITS.build())


def together(trainer, data, keys=KEYS, rate=0.05):
    return CohortTrainer(trainer).fit(start(), data, keys[: len(data)], seed=9, learning_rate=rate)


def alone(trainer, own, key, rate=0.05):
    return trainer.fit(start(), own, key, seed=9, learning_rate=rate), trainer.train_loss


# -- the arithmetic ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.01},
        {"optimizer": "adam", "weight_decay": 0.01},
        {"optimizer": "adamw", "weight_decay": 0.01},
    ],
    ids=["sgd", "momentum", "adam", "adamw"],
)
def test_every_client_takes_the_steps_it_would_take_alone(recipe):
    """Clients of different sizes, one without samples: same batches, same optimizer, same losses."""
    trainer, data = trainer_of(**recipe), clients_of(*SIZES)
    rate = 0.001 if "optimizer" in recipe else 0.05
    updates, losses = together(trainer, data, rate=rate)
    assert updates.dtype == np.float32
    for own, key, update, loss in zip(data, KEYS, updates, losses, strict=True):
        expected, expected_loss = alone(trainer, own, key, rate)
        np.testing.assert_allclose(start() + update, start() + expected, rtol=1e-5, atol=1e-6)
        assert np.linalg.norm(update - expected) <= 1e-5 * np.linalg.norm(expected)
        np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    assert np.isnan(losses[2])
    assert not updates[2].any()


def test_the_same_group_gives_the_same_bytes():
    data = clients_of(*SIZES)
    first, second = together(trainer_of(), data), together(trainer_of(), data)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_client_that_diverges_spoils_no_other():
    data = clients_of(20, 20, 20)
    data[1].images[:] = np.inf
    updates, losses = together(trainer_of(), data)
    assert np.isnan(updates[1]).any()
    assert np.isnan(losses[1])
    for client in (0, 2):
        expected, _ = alone(trainer_of(), data[client], KEYS[client])
        np.testing.assert_allclose(updates[client], expected, rtol=1e-5, atol=1e-7)


def test_a_group_in_which_nobody_has_samples_stays_where_it_is():
    updates, losses = together(trainer_of(), clients_of(0, 0))
    np.testing.assert_array_equal(updates, np.zeros((2, len(start()))))
    assert np.isnan(losses).all()


def test_batches_of_different_sizes_are_padded_with_weight_zero():
    index, weights = padded([np.array([4, 2]), np.array([5, 9, 7, 8])])
    np.testing.assert_array_equal(index, [[4, 2, 4, 4], [5, 9, 7, 8]])
    np.testing.assert_array_equal(weights, np.float32([[0.5, 0.5, 0, 0], [0.25] * 4]))


def test_a_stack_scores_as_its_models_do():
    """Strides, padding, dilation, average pools, layers without bias: g different models at once."""

    def model():
        torch.manual_seed(0)
        return nn.Sequential(
            OrderedDict(
                body=nn.Sequential(
                    nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False),
                    nn.ReLU(),
                    nn.AvgPool2d(2),
                    nn.Conv2d(3, 4, 2, dilation=2),
                ),
                flat=nn.Flatten(),
                hidden=nn.Linear(16, 5, bias=False),
                relu=nn.ReLU(),
                head=nn.Linear(5, 3),
            )
        )

    assert obstacle(model()) == ""
    draw = np.random.default_rng(2)
    models = [model() for _ in range(3)]
    for one in models:
        for parameter in one.parameters():
            parameter.data = torch.from_numpy(draw.normal(size=parameter.shape).astype(np.float32))
    parameters = {
        name: torch.stack([dict(one.named_parameters())[name].detach() for one in models])
        for name, _ in models[0].named_parameters()
    }
    images = torch.from_numpy(draw.random((6, 3, 2, 16, 16), dtype=np.float32))
    scores = stacked_forward(leaf_layers(models[0]), parameters, images)
    assert scores.shape == (3, 3, 6)
    for own, one in enumerate(models):
        expected = one(images[:, own]).detach().T
        torch.testing.assert_close(scores[own], expected, rtol=1e-5, atol=1e-5)


# -- which models, and how many ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("digits_cnn", {}, ""),
        ("flare_cifar", {}, ""),
        ("leaf_cnn", {"width": 0.1}, ""),
        ("vgg9", {"width": 0.1}, ""),
        ("lenet_wang", {"width": 0.1}, "its layer features.dropout is Dropout2d"),
        ("dba_resnet18", {"width": 0.1}, "BatchNorm2d"),
        ("resnet18_cifar", {"width": 0.1, "norm": "group"}, "GroupNorm"),
    ],
)
def test_the_models_that_can_be_stacked(name, options, why):
    model = build_model(name, num_classes=10, input_shape=(1, 32, 32), seed=0, **options)
    assert (why in obstacle(model)) if why else not obstacle(model)


def test_what_stands_in_the_way_of_a_stack():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    relu = nn.ReLU()
    assert obstacle(SmallNet().build()) == ""
    assert "Residual is not" in obstacle(Residual(nn.Flatten(), nn.Linear(4, 4)))
    assert "Residual" in obstacle(nn.Sequential(nn.Flatten(), Residual(nn.Linear(4, 4))))
    assert "BatchNorm1d" in obstacle(SmallNet("batchnorm").build())
    assert "Dropout" in obstacle(SmallNet("dropout").build())
    assert "twice" in obstacle(nn.Sequential(nn.Flatten(), relu, nn.Linear(4, 4), relu))
    assert "Flatten" in obstacle(nn.Sequential(nn.Conv2d(1, 1, 3)))
    assert "Conv2d" in obstacle(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten()))
    assert "Conv2d" in obstacle(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")))
    assert "MaxPool2d" in obstacle(nn.Sequential(nn.Flatten(), nn.MaxPool2d(2)))
    assert "Linear" in obstacle(nn.Sequential(nn.Linear(4, 4), nn.Flatten()))


def test_what_one_step_touches_counted_by_hand():
    """Per sample: image 16, flat 16, body 5, ReLU 5, head 3; twice 85 + 18 parameters."""
    assert step_bytes(SmallNet().build(), (1, 4, 4), 7) == 4 * (7 * (16 + 16 + 5 + 5 + 3) + 2 * 103)


@pytest.mark.parametrize(
    ("name", "shape", "options", "batch", "cohort", "size"),
    [
        ("digits_cnn", (1, 8, 8), {}, 10, 100, 10),
        ("digits_cnn", (1, 8, 8), {}, 10, 10, 3),
        ("digits_cnn", (1, 8, 8), {}, 10, 2, 1),
        ("digits_cnn", (1, 8, 8), {}, 64, 100, 7),
        ("digits_cnn", (1, 8, 8), {"width": 4.0}, 10, 100, 1),  # 208,394 parameters
        ("flare_cifar", (3, 32, 32), {}, 32, 100, 1),  # 20 MiB of activations a step
        ("flare_cifar", (3, 32, 32), {"width": 0.25}, 10, 100, 4),
        ("lenet_wang", (1, 28, 28), {"width": 0.1}, 10, 100, 1),  # dropout
    ],
)
def test_the_rule_for_how_many_train_together(name, shape, options, batch, cohort, size):
    model = build_model(name, num_classes=10, input_shape=shape, seed=0, **options)
    assert group_size(cohort, model, shape, batch) == size


def composed(tiny, **training):
    return compose(ExperimentConfig.from_mapping({**tiny, "training": training}))


def test_the_choice_is_written_into_the_resolved_configuration(tiny):
    found = composed(tiny)
    assert found.config.training.clients_per_stack == found.setup.clients_per_stack == 3
    assert composed(tiny, clients_per_stack=5).setup.clients_per_stack == 5
    assert composed(tiny, clients_per_stack=1).setup.clients_per_stack == 1
    again = compose(ExperimentConfig.from_mapping(found.config.to_mapping()))
    assert again.config == found.config


def test_a_group_is_refused_where_the_model_cannot_be_stacked(tiny):
    dropout = {**tiny, "model": {"name": "lenet_wang", "width": 0.1}}
    assert composed(dropout).setup.clients_per_stack == 1
    with pytest.raises(ConfigError, match="Dropout2d") as caught:
        composed(dropout, clients_per_stack=4)
    assert (caught.value.key, caught.value.nearest) == ("training.clients_per_stack", 1)
    with pytest.raises(ConfigError) as caught:
        composed(tiny, clients_per_stack=0)
    assert caught.value.key == "training.clients_per_stack"


# -- who trains with whom ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OwnTraining(Attack):
    """Trains in its own way."""

    def train(self, honest_train, data, ctx):
        return -honest_train(data)


@dataclass(frozen=True)
class Stained(Attack):
    """Honest training on one label alone; client 4 has no such data."""

    def poison_data(self, data, ctx):
        if ctx.client == 4:
            raise LookupError("nothing to stain")
        ctx.note("stained")
        return ClientData(data.images, np.zeros_like(data.labels))


def plan_with(tiny, *campaigns, size=3):
    plan = composed({**tiny, "attack": None, "population": {"clients": 10}}, clients_per_stack=size).setup
    return replace(plan, campaigns=campaigns)


def listed(groups):
    return [group.tolist() for group in groups]


def test_groups_are_cut_by_position_and_loners_left_out(tiny):
    loners = Campaign(OwnTraining(), np.array([14, 40]), Schedule(start=1))
    plan = plan_with(tiny, loners, Campaign(Stained(), np.array([12])))
    cohort, even = np.array([10, 11, 12, 14, 20, 21, 22, 40, 41]), np.full(9, 28)
    assert listed(plan.groups(0, cohort, even)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert listed(plan.groups(1, cohort, even)) == [[0, 1, 2], [4, 5, 6], [8], [3], [7]]
    assert listed(plan.groups(1, cohort[3:], even[3:])) == [[1, 2, 3], [5], [0], [4]]
    assert listed(replace(plan, clients_per_stack=1).groups(0, [3, 7], even[:2])) == [[0], [1]]


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("per_actor", ["auto", 1, 2, 5, 50])
def test_no_block_parts_a_group(tiny, workers, per_actor):
    experiment = composed({**tiny, "attack": None, "population": {"clients": 24}}, clients_per_stack=4)
    config = experiment.config.with_values(resources={"clients_per_actor": per_actor})
    plan = replace(experiment.setup, campaigns=(Campaign(OwnTraining(), np.array([3, 9, 10, 23])),))
    experiment = replace(experiment, config=config, setup=plan)
    cohort = np.arange(24)
    blocks = split_cohort(cohort, experiment, workers)
    np.testing.assert_array_equal(np.sort(np.concatenate(blocks)), cohort)
    sizes = experiment.sizes
    assert all((np.diff(block) > 0).all() for block in blocks)
    parts = sorted(block[group].tolist() for block in blocks for group in plan.groups(0, block, sizes[block]))
    assert parts == sorted(listed(plan.groups(0, cohort, sizes)))


def test_blocks_without_groups_are_as_long_as_asked(tiny):
    experiment = composed({**tiny, "attack": None}, clients_per_stack=1)
    cohort = np.arange(10)
    assert [len(block) for block in split_cohort(cohort, experiment, 2)] == [3, 2, 1, 1, 1, 1, 1]
    assert [len(block) for block in split_cohort(cohort, experiment, 1)] == [5, 3, 1, 1]


def rows_of(tiny, plan, clients):
    experiment = composed({**tiny, "attack": None, "population": {"clients": 10}})
    *tiles, metas = ClientHost(plan, *experiment.arrays).train(
        RoundOrder(1, 280), clients, experiment.initial, None
    )
    return np.concatenate(tiles, axis=1), metas


def test_a_host_trains_groups_to_the_results_of_one_after_another(tiny):
    """With one that trains in its own way and one that is honest on poisoned data, which joins a group."""
    campaigns = Campaign(OwnTraining(), np.array([2])), Campaign(Stained(), np.array([6]))
    clients = [0, 1, 2, 3, 5, 6, 8]
    rows, metas = rows_of(tiny, plan_with(tiny, *campaigns), clients)
    expected, expected_metas = rows_of(tiny, plan_with(tiny, *campaigns, size=1), clients)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(rows[2], expected[2])
    for meta, other in zip(metas, expected_metas, strict=True):
        assert replace(meta, train_loss=0.0) == replace(other, train_loss=0.0)
        assert meta.train_loss == pytest.approx(other.train_loss, rel=1e-5)
    assert [meta.note for meta in metas] == [""] * 5 + ["stained", ""]


def test_an_error_names_the_client_or_those_trained_together(tiny, monkeypatch):
    plan = plan_with(tiny, Campaign(Stained(), np.array([4])))
    with pytest.raises(RunError, match=r"round 1, stage train, client 4: LookupError: nothing to stain"):
        rows_of(tiny, plan, [3, 4, 5])
    monkeypatch.setattr(CohortTrainer, "fit", lambda self, *args, **options: 1 / 0)
    with pytest.raises(RunError, match=r"ZeroDivisionError.*clients \[5, 6, 7\] together") as caught:
        rows_of(tiny, plan, [5, 6, 7])
    assert caught.value.client is None


# -- whole runs ----------------------------------------------------------------------------------------


def grouped(tiny, attack="label_flip"):
    return {
        **tiny,
        "population": {"clients": 14, "malicious": 4, "placement": [1, 6, 7, 12]},
        "attack": [
            {"name": "tests.engine.test_cohort_training:OwnTraining", "clients": [6, 12]},
            {"name": attack},
        ],
        "training": {"batch_size": 8, "clients_per_stack": 4},
        "defense": "fedavg",
    }


def digests(result):
    return result.digest, (result.path / "clients.parquet").read_bytes()


def test_hosts_and_tiles_change_nothing(tiny, tmp_path):
    config = grouped(tiny)
    expected = digests(raysim.run(config, name="auto", out=tmp_path, backend="inprocess"))
    for per_actor in (1, 2, 5, 14):
        placed = {**config, "resources": {"clients_per_actor": per_actor, "tile_bytes": 4096 * per_actor}}
        result = raysim.run(placed, name=f"{per_actor}", out=tmp_path, backend="inprocess")
        assert digests(result) == expected


def test_a_run_in_groups_is_a_run_one_after_another(tiny, tmp_path):
    config = {**grouped(tiny), "rounds": 1}
    one = {**config, "training": {"batch_size": 8, "clients_per_stack": 1}}
    first = raysim.run(config, name="groups", out=tmp_path, backend="inprocess")
    second = raysim.run(one, name="one", out=tmp_path, backend="inprocess")
    np.testing.assert_allclose(first.global_vector, second.global_vector, rtol=1e-5, atol=1e-7)
    assert first.rounds[0]["train_loss"] == pytest.approx(second.rounds[0]["train_loss"], rel=1e-5)


@pytest.mark.ray
def test_ray_gives_the_bytes_of_in_process(ray_cluster, tiny, tmp_path):
    """Groups on two actors; some of the clients that are asked come too late."""
    config = {**grouped(tiny), "defense": "layercam_ae"}
    late = {"cohort": 11, "over_selection": 1.25, "devices": "lognormal"}
    config["population"] = {**config["population"], **late}
    here = raysim.run(config, name="inprocess", out=tmp_path, backend="inprocess")
    rows = here.table("clients").to_pylist()
    assert sum(row["reason"].startswith("too late") for row in rows) == 2 * 3
    expected = digests(here)
    placed = {**config, "resources": {"clients_per_actor": 7}}
    assert digests(raysim.run(placed, name="ray", out=tmp_path)) == expected
