"""Dotted overrides: values, lists by index, and what stays when another component is named."""

from __future__ import annotations

import pytest

from raysim.config.overrides import apply_overrides
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError


def made(*overrides, **values):
    return ExperimentConfig.from_mapping(apply_overrides(values, overrides))


def refusal(*overrides, **values):
    with pytest.raises(ConfigError) as caught:
        made(*overrides, **values)
    return caught.value


def test_values_are_yaml():
    config = made(
        "rounds=7", "training.optimizer.lr=1e-3", "data.download=true", "population.cohort=null",
        "server_data.classes=[1, 2]", "resources.tile_bytes=auto", "data.root='12'", "population.malicious=0.5",
        "model={name: vgg9, width: 2}",
    )  # fmt: skip
    assert config.rounds == 7
    assert config.training.optimizer.lr == 0.001
    assert config.data.download is True
    assert config.population.cohort is None
    assert config.server_data.classes == [1, 2]
    assert config.data.root == "12"
    assert config.population.num_malicious == 12
    assert config.model.options == {"width": 2}


def test_overrides_apply_in_order_and_leave_the_given_values_alone():
    values = {"rounds": 1, "defense": [{"name": "krum", "num_byzantine": 1}]}
    assert made("rounds=5", "rounds=6", "defense.0.num_byzantine=2", **values).rounds == 6
    assert values == {"rounds": 1, "defense": [{"name": "krum", "num_byzantine": 1}]}


def test_items_of_a_list_are_named_by_index():
    config = made("attack.1.schedule.start=5", "attack.0.clients=2", attack=["noise", "label_flip"])
    assert [item.schedule.start for item in config.attack] == [0, 5]
    assert [item.clients for item in config.attack] == [2, None]
    assert made("defense.1=median", defense=["clip_norm", "krum"]).defense[1].name == "median"
    assert made("server_data.classes.0=7", server_data={"classes": [1, 2]}).server_data.classes == [7, 2]


@pytest.mark.parametrize(
    ("override", "key", "part"),
    [
        ("defense.2.x=1", "defense.2.x", "2"),
        ("defense.2=krum", "defense.2", "2"),
        ("defense.num_byzantine=1", "defense.num_byzantine", "num_byzantine"),
        ("defense.-1.x=1", "defense.-1.x", "-1"),
    ],
)
def test_wrong_indices_are_refused(override, key, part):
    error = refusal(override, defense=["clip_norm", "krum"])
    assert (error.key, error.value) == (key, part)
    assert error.rule == "must name an item of the list by its index, below 2"


def test_naming_one_replaces_a_list_of_them():
    config = made("defense.name=krum", "defense.num_byzantine=2", defense=["clip_norm", "median"])
    assert [(item.name, item.options) for item in config.defense] == [("krum", {"num_byzantine": 2})]


def test_naming_another_component_starts_its_options_afresh():
    krum = {"name": "krum", "num_byzantine": 2}
    assert made("defense.name=median", defense=krum).defense[0].options == {}
    assert made("defense.name=krum", defense=krum).defense[0].options == {"num_byzantine": 2}
    assert made("defense.num_byzantine=3", "defense.name=multi_krum", defense=krum).defense[0].options == {
        "num_byzantine": 3
    }
    assert made("defense.1.name=median", defense=["clip_norm", krum]).defense[1].options == {}


def test_keys_beside_the_name_stay_when_another_is_named():
    attack = {"name": "noise", "sigma": 2, "clients": 3, "schedule": {"start": 4}}
    for values, override in (
        ({"attack": attack}, "attack.name=x"),
        ({"attack": [attack]}, "attack.0.name=x"),
    ):
        (found,) = made(override, **values).attack
        assert (found.name, found.clients, found.schedule.start, found.options) == ("x", 3, 4, {})
    data = {
        "name": "gtsrb",
        "size": 32,
        "limit": 50,
        "root": "/data",
        "partition": {"name": "dirichlet", "beta": 1},
    }
    found = made("data.name=mnist", data=data).data
    assert (found.limit, found.root, found.partition.options, found.options) == (50, "/data", {"beta": 1}, {})
    assert made("data.partition.name=iid", data=data).data.partition.options == {}
    optimizer = {"name": "sgd", "lr": 0.02, "momentum": 0.5, "weight_decay": 0.1}
    found = made("training.optimizer.name=adam", training={"optimizer": optimizer}).training.optimizer
    assert found.model_dump() == {**optimizer, "name": "adam"}


def test_an_option_of_a_component_given_by_its_name_alone():
    assert made("defense.num_byzantine=2", defense="krum").defense[0].options == {"num_byzantine": 2}
    assert made("attack.schedule.start=2", attack="noise").attack[0].schedule.start == 2


@pytest.mark.parametrize(
    ("override", "key", "rule"),
    [
        ("rounds", "override", "KEY=VALUE"),
        ("=3", "override", "KEY=VALUE"),
        ("rounds=[1", "rounds", "must be valid YAML"),
        ("rounds.x=3", "rounds.x", "rounds is a value, not a group"),
    ],
)
def test_malformed_overrides_are_refused(override, key, rule):
    error = refusal(override, rounds=3)
    assert error.key == key
    assert rule in error.rule
