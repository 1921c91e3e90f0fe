"""Configurations that cannot be carried out: each is refused by its dotted key, with the nearest valid choice."""

from __future__ import annotations

import numpy as np
import pytest

from raysim import ConfigError
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from tests.composition.own_components import OWN, Targeted, noise, refusal


@pytest.mark.parametrize(
    ("values", "key", "nearest"),
    [
        ({"data": "digit"}, "data.name", "digits"),
        ({"data": {"name": "digits", "limt": 5}}, "data.limt", "limit"),
        ({"data": {"name": "synthetic", "num_clases": 5}}, "data.num_clases", "num_classes"),
        ({"data": {"name": "synthetic", "noise": -1}}, "data.noise", 0.0),
        ({"data": {"name": "digits", "partition": "idd"}}, "data.partition.name", "iid"),
        (
            {"data": {"name": "digits", "partition": {"name": "dirichlet", "alpha": -1}}},
            "data.partition.alpha",
            0.5,
        ),
        ({"data": {"name": "digits", "partition": "natural"}}, "data.partition.name", None),
        ({"data": {"name": "digits", "limit": 30}, "population": {"clients": 50}}, "population.clients", 10),
        ({"model": "lenet"}, "model.name", "lenet_wang"),
        ({"model": {"name": "lenet_wang", "widht": 1}}, "model.widht", "width"),
        ({"defense": "krumm"}, "defense.name", "krum"),
        ({"defense": ["clip_norm", "krumm"]}, "defense.1.name", "krum"),
        (
            {"defense": ["clip_norm", {"name": "krum", "num_bizantine": 1}]},
            "defense.1.num_bizantine",
            "num_byzantine",
        ),
        ({"defense": {"name": f"{OWN}:Demanding", "size": 9}}, "defense.size", 8),
        ({"defense": ["clip_norm", {"name": f"{OWN}:Demanding", "size": 9}]}, "defense.1.size", 8),
        ({"defense": {"name": f"{OWN}:Demanding", "mode": "server"}}, "server_data.samples", 1),
        (
            {"defense": {"name": "flare", "label": 3}, "server_data": {"samples": 10, "classes": [0, 1]}},
            "defense.label",
            1,
        ),
        ({"population": {"clients": 8, "malicious": 1}, "attack": "noisy"}, "attack.name", "noise"),
        (
            {
                "population": {"clients": 8, "malicious": 1},
                "attack": {"name": f"{OWN}:Targeted", "source": 10},
            },
            "attack.source",
            9,
        ),
        (
            {
                "population": {"clients": 8, "malicious": 2},
                "attack": [noise(clients=1), {"name": f"{OWN}:Targeted", "source": 10}],
            },
            "attack.1.source",
            9,
        ),
    ],
)
def test_every_refusal_names_the_dotted_key_and_the_nearest_valid_choice(values, key, nearest):
    error = refusal(**values)
    assert (error.key, error.nearest) == (key, nearest)


def test_a_target_that_no_test_sample_can_show_is_refused(monkeypatch):
    monkeypatch.setattr(Targeted, "triggered_test", lambda self, test: test.select(np.zeros(0, np.int64)))
    error = refusal(population={"clients": 8, "malicious": 1}, attack=f"{OWN}:Targeted")
    assert error.key == "attack"
    assert "no test sample" in error.rule


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"model": {"name": "resnet18_cifar", "width": 1e300}}, "model"),
        ({"model": {"name": "dba_mnist_cnn", "num_classes": 3}}, "model.num_classes"),
        ({"data": {"name": "synthetic", "shape": None}}, "data.shape"),
        ({"data": {"name": "synthetic", "noise": "loud"}}, "data.noise"),
        ({"data": {"name": "synthetic", "num_owners": 1.5}}, "data.num_owners"),
        ({"data": {"name": "synthetic", "train_size": 10**18}}, "data.name"),
    ],
)
def test_options_beyond_all_machines_are_refused(values, key):
    with pytest.raises(ConfigError) as caught:
        compose(ExperimentConfig.from_mapping(values))
    assert caught.value.key == key


ONE_AT_A_TIME = {
    "model": {"name": "dba_resnet18"},
    "training": {"batch_size": 1, "epochs": 1},
    "attack": [],
    "defense": "fedavg",
    "server_data": {"samples": 0},
    "population": {"clients": 8, "malicious": 0},
}


@pytest.mark.parametrize("updates", ["trained", "synthetic"])
@pytest.mark.parametrize("side", [8, 16])
def test_single_samples_are_refused_if_batch_norm_sees_one_value_a_channel(side: int, updates: str):
    data = {"name": "synthetic", "shape": [3, side, side], "train_size": 24, "test_size": 10}
    config = ExperimentConfig.from_mapping({**ONE_AT_A_TIME, "data": data, "updates": {"name": updates}})
    if side == 8 and updates == "trained":
        with pytest.raises(ConfigError, match=r"training\.batch_size: must be at least 2 for this model"):
            compose(config)
    else:
        assert compose(config).config.training.batch_size == 1
