"""The configuration: what is refused and how, overrides, short forms, presets, the round trip through YAML."""

from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from raysim.config.load import load_config, preset_names
from raysim.config.overrides import apply_overrides
from raysim.config.schema import ExperimentConfig, Group
from raysim.errors import ConfigError

RICH = {
    "seed": 3,
    "rounds": 4,
    "population": {"clients": 10, "malicious": 0.3, "cohort": 5, "placement": [1, 4, 7]},
    "data": {"name": "synthetic", "shape": [1, 4, 4], "partition": {"name": "dirichlet", "beta": 0.5}},
    "model": {"name": "lenet_wang", "width": 0.5},
    "training": {"optimizer": {"name": "adam", "lr": 0.01}},
    "attack": [
        {"name": "noise", "schedule": {"start": 1, "stop": 3}},
        {"name": "label_flip", "clients": [4]},
    ],
    "defense": [{"name": "clip_norm", "max_norm": 2.0}, {"name": "krum", "num_byzantine": 2}],
    "server_data": {"samples": 5, "classes": [1, 2]},
    "resources": {"tile_bytes": 8192, "clients_per_actor": 3},
}


def made(*overrides, **values):
    return ExperimentConfig.from_mapping(apply_overrides(values, overrides))


def refusal(*overrides, **values):
    with pytest.raises(ConfigError) as caught:
        made(*overrides, **values)
    return caught.value


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "rule", "value", "nearest"),
    [
        ("seed=-1", "greater than or equal to 0", -1, 0),
        ("rounds=0", "greater than or equal to 1", 0, 1),
        ("rounds=ten", "valid integer", "ten", None),
        ("rounds=1.5", "valid integer", 1.5, None),
        ("rounds=", "valid integer", None, None),
        ("rounds=yes", "must not be a boolean", True, None),
        ("population=5", "valid dictionary", 5, None),
        ("population.clients=0", "greater than or equal to 1", 0, 1),
        ("population.cohort=0", "greater than or equal to 1", 0, 1),
        ("population.cohort=99", "must not exceed the population of 24", 99, 24),
        ("population.malicious=-1", "greater than or equal to 0", -1, 0),
        ("population.malicious=many", "valid integer", "many", None),
        ("population.malicious=true", "must not be a boolean", True, None),
        ("population.malicious=2.5", "whole number, or a fraction below 1", 2.5, 2),
        ("population.malicious=25", r"must not exceed population.clients (24)", 25, 24),
        ("population.placement=lst", "'last' or 'random', or should be a valid list", "lst", "last"),
        ("population.placement=[a]", "valid integer", ["a"], None),
        ("population.mode=add", "'replace' or 'append'", "add", None),
        ("data.limit=0", "greater than or equal to 1", 0, 1),
        ("data.download=maybe", "valid boolean", "maybe", None),
        ("training.epochs=0", "greater than or equal to 1", 0, 1),
        ("training.batch_size=0", "greater than or equal to 1", 0, 1),
        ("training.lr_decay=1.5", "less than or equal to 1", 1.5, 1),
        ("training.optimizer.name=sdg", "'sgd', 'adam' or 'adamw'", "sdg", "sgd"),
        ("training.optimizer.lr=0", "greater than 0", 0, None),
        ("training.optimizer.momentum=1", "less than 1", 1, None),
        ("training.optimizer.weight_decay=-1", "greater than or equal to 0", -1, 0),
        ("server_data.samples=-5", "greater than or equal to 0", -5, 0),
        ("server_data.source=val", "'train' or 'test'", "val", None),
        ("resources.client_gpus=2", "less than or equal to 1", 2, 1),
        ("resources.client_cpus=-0.5", "greater than or equal to 0", -0.5, 0),
        ("resources.tile_bytes=12", "'auto', or should be greater than or equal to 4096", 12, 4096),
        ("resources.tile_bytes=autoo", "'auto', or should be a valid integer", "autoo", "auto"),
        ("resources.clients_per_actor=0", "'auto', or should be greater than or equal to 1", 0, 1),
        ("resources.device=gpu", "'auto', 'cpu' or 'cuda'", "gpu", "cpu"),
        ("resources.threads=0", "greater than or equal to 1", 0, 1),
        ("record.every=0", "greater than or equal to 1", 0, 1),
        ("evaluation.every=0", "greater than or equal to 1", 0, 1),
        ("checkpoint.keep=0", "greater than or equal to 1", 0, 1),
        ("model=none", "valid dictionary", None, None),
        ("defense=none", "must name at least one defense", None, "fedavg"),
        ("defense.name=5", "valid string", 5, None),
        ("attack=5", "valid dictionary", 5, None),
    ],
)
def test_a_wrong_value_names_key_rule_value_and_the_nearest_valid_one(override, rule, value, nearest):
    error = refusal(override)
    assert error.key == override.partition("=")[0]
    assert rule in error.rule
    assert (error.value, error.nearest) == (value, nearest)
    assert str(error).startswith(f"{error.key}: {error.rule}; received {value!r}")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("rouns", "rounds"),
        ("population.clints", "clients"),
        ("training.optimizer.momentun", "momentum"),
        ("attack.schedule.strt", "start"),
        ("resources.client_gpu", "client_gpus"),
        ("server_data.class", "classes"),
    ],
)
def test_a_misspelt_key_is_refused_with_the_nearest(key, nearest):
    error = refusal(f"{key}=1", attack={"name": "noise"})
    assert (error.key, error.value, error.nearest) == (key, 1, nearest)
    assert nearest in error.rule


def test_every_group_refuses_unknown_keys_and_is_frozen():
    groups = [kind for kind in Group.__subclasses__() if kind.__name__ not in ("Component",)]
    assert len(groups) >= 9
    for kind in groups:
        assert kind.model_config["extra"] == "forbid"
        assert kind.model_config["frozen"]


def test_keys_of_several_attacks_have_numbers_and_of_one_have_none():
    several = [{"name": "noise"}, {"name": "noise", "schedule": {"every": 0}}]
    assert refusal(attack=several).key == "attack.1.schedule.every"
    assert refusal(attack=several[1:]).key == "attack.0.schedule.every"
    assert refusal(attack=several[1]).key == "attack.schedule.every"
    assert refusal(attack=[{"name": "noise"}, {"name": "noise", "schedule": {"evry": 2}}]).nearest == "every"


def test_an_attack_must_stop_after_it_starts():
    error = refusal(attack={"name": "noise", "schedule": {"start": 3, "stop": 3}})
    assert (
        str(error)
        == "attack.schedule.stop: must be greater than attack.schedule.start; received 3; nearest valid: 4"
    )
    late = {"name": "noise", "schedule": {"start": 3, "stop": 1}}
    assert refusal(attack=[late, late]).key == "attack.0.schedule.stop"


@pytest.mark.parametrize(
    ("placement", "rule"),
    [
        ([1, 1], "distinct client ids from 0 to 9"),
        ([1, 10], "distinct client ids from 0 to 9"),
        ([-1, 2], "distinct client ids"),
        ([1, 2, 3], r"as many ids as population.malicious (2)"),
        ([], r"as many ids as population.malicious (2)"),
    ],
)
def test_placements_by_id_must_fit(placement, rule):
    error = refusal(population={"clients": 10, "malicious": 2, "placement": placement})
    assert error.key == "population.placement"
    assert rule in error.rule
    assert error.value == placement


def test_appended_attackers_have_no_ids_of_their_own():
    error = refusal(population={"clients": 10, "malicious": 1, "placement": [3], "mode": "append"})
    assert (error.key, error.nearest) == ("population.placement", "last")


def test_keys_that_are_no_names_are_refused():
    with pytest.raises(ConfigError, match="names of groups as its keys; received 1"):
        ExperimentConfig.from_mapping({1: 2})
    with pytest.raises(ConfigError, match="keys should be strings; received 1"):
        ExperimentConfig.from_mapping({"population": {1: 2}})


# -- populations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("population", "malicious", "total", "cohort"),
    [
        ({"clients": 10}, 0, 10, 10),
        ({"clients": 10, "malicious": 3}, 3, 10, 10),
        ({"clients": 10, "malicious": 3.0}, 3, 10, 10),
        ({"clients": 10, "malicious": 0.25}, 2, 10, 10),
        ({"clients": 10, "malicious": 0.3, "mode": "append"}, 3, 13, 13),
        ({"clients": 10, "malicious": 12, "mode": "append", "cohort": 4}, 12, 22, 4),
    ],
)
def test_counts_of_a_population(population, malicious, total, cohort):
    found = made(population=population).population
    assert (found.num_malicious, found.total, found.cohort_size) == (malicious, total, cohort)


# -- short forms and components -------------------------------------------------------------------------


def test_a_name_alone_is_a_component():
    config = made(attack="noise", defense=["clip_norm", {"name": "krum"}], model="vgg9", data="mnist")
    assert [item.name for item in config.attack] == ["noise"]
    assert [item.name for item in config.defense] == ["clip_norm", "krum"]
    assert (config.model.name, config.data.name) == ("vgg9", "mnist")
    assert made(training={"optimizer": "adam"}).training.optimizer.name == "adam"
    assert made(data={"name": "mnist", "partition": "natural"}).data.partition.name == "natural"


def test_none_is_no_attack():
    for nothing in (None, "none", "None", []):
        assert made(attack=nothing).attack == ()


def test_options_stand_beside_the_name():
    (attack,) = made(attack={"name": "noise", "clients": 2, "sigma": 0.5}).attack
    assert attack.options == {"sigma": 0.5}
    assert attack.clients == 2
    assert attack.schedule.start == 0
    assert made(data={"name": "gtsrb", "size": 32}).data.options == {"size": 32}


# -- files and presets ----------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_yaml_as_it_was(tmp_path):
    for values in ({}, RICH, {"attack": "noise", "defense": "median"}):
        config = made(**values)
        path = tmp_path / "config.yaml"
        path.write_text(config.to_yaml())
        assert load_config(path) == config
        assert load_config(path).to_yaml() == config.to_yaml()


def test_yaml_has_every_key_and_lists_only_where_there_are_several():
    written = yaml.safe_load(made(attack="noise").to_yaml())
    assert list(written) == list(ExperimentConfig.model_fields)
    assert (written["attack"]["name"], written["defense"]["name"]) == ("noise", "fedavg")
    assert written["population"]["cohort"] is None
    assert yaml.safe_load(made().to_yaml())["attack"] is None
    assert len(yaml.safe_load(made(**RICH).to_yaml())["defense"]) == 2


def test_configurations_cannot_be_changed():
    config = made(attack="noise")
    for thing, key in (
        (config, "rounds"),
        (config.population, "clients"),
        (config.attack[0], "name"),
        (config.data, "limit"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, key, 1)


def test_with_values_makes_a_checked_copy():
    config = made(**RICH)
    other = config.with_values(resources={"threads": 2}, population={"cohort": 4})
    assert (other.resources.threads, other.resources.tile_bytes, other.population.cohort) == (2, 8192, 4)
    assert config.resources.threads == 1
    with pytest.raises(ConfigError, match=r"resources\.threads"):
        config.with_values(resources={"threads": 0})


def test_every_preset_is_a_configuration():
    names = preset_names()
    assert "quickstart" in names
    for name in names:
        config = load_config(name)
        assert load_config(name, ["rounds=2"]).rounds == 2
        assert ExperimentConfig.from_mapping(config.to_mapping()) == config
    assert load_config() == load_config("quickstart")


def test_reported_numbers_and_descriptions_are_not_configuration(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text("rounds: 3\nreported: {accuracy: 0.9}\ndescription: what it is\n")
    assert load_config(path) == load_config(str(path)) == ExperimentConfig(rounds=3)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"[1", "must be valid YAML"),
        (b"- rounds\n", "must hold a mapping of groups"),
        (b"", "must hold a mapping of groups"),
        (b"\xff\xfe", "must be text in UTF-8"),
        (None, "must be a readable file (No such file or directory)"),
    ],
)
def test_files_that_hold_no_configuration_are_refused(tmp_path, content, rule):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.key == "config"
    assert rule in caught.value.rule


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigError,
        match=r"preset: must name a preset or a .yaml file; received 'quickstrat'; did you mean 'quickstart'\?",
    ):
        load_config("quickstrat")


def test_the_former_name_of_clients_per_stack_is_accepted_with_a_warning():
    with pytest.warns(FutureWarning, match="training.clients_per_stack"):
        config = ExperimentConfig.from_mapping({"training": {"cohort_size": 3}})
    assert config.training.clients_per_stack == 3
    with pytest.raises(ConfigError, match="former name") as caught:
        ExperimentConfig.from_mapping({"training": {"cohort_size": 3, "clients_per_stack": 2}})
    assert caught.value.key == "training"
