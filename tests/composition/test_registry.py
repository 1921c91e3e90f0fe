"""How a component is made of its name and options: every key and type checked, import paths and their classes too."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from attacks import ATTACKS
from defenses import DEFENSES
from raysim import ConfigError, Defense
from raysim.composition.attackers import make_campaigns
from raysim.composition.compose import compose
from raysim.composition.methods import make_defense, written_out
from raysim.composition.registry import defense_title, make
from raysim.config.schema import Component, ExperimentConfig
from raysim.data.partition import PARTITIONS
from raysim.engine.drawn_updates import UPDATES
from tests.composition.own_components import OWN, Demanding, Numbers, config_of, noise, refusal


def test_a_paper_is_no_option():
    with pytest.raises(ConfigError, match=r"defense\.paper"):
        make("defense", DEFENSES, Component(name="krum", paper="mine"), Defense)
    assert "paper" not in written_out(ExperimentConfig.from_mapping({"defense": "krum"})).to_yaml()


def test_tables_name_a_defense_that_is_shown_the_truth():
    assert defense_title("oracle") == "oracle (calibration only)"
    assert defense_title("oracle", "oracle@2nodes") == "oracle@2nodes (calibration only)"
    assert defense_title("defenses.oracle:Oracle") == "defenses.oracle:Oracle (calibration only)"
    assert defense_title("pdrr,rule=median") == "pdrr,rule=median"
    assert defense_title("gone.away:Method") == "gone.away:Method"
    assert defense_title("(limits)") == "(limits)"


def test_options_are_checked_by_type_and_by_the_component():
    def refused(**options):
        with pytest.raises(ConfigError) as caught:
            make("defense", DEFENSES, Component(name=f"{OWN}:Demanding", **options), Defense)
        return caught.value

    assert make("defense", DEFENSES, Component(name=f"{OWN}:Demanding", size=4), Defense) == Demanding(4)
    assert refused(size="many").key == "defense.size"
    assert refused(size="many").rule == "must be a whole number"
    assert (refused(size=0).key, refused(size=0).nearest) == ("defense.size", 1)
    assert (refused(sise=4).key, refused(sise=4).nearest) == ("defense.sise", "size")
    assert refused(weights=[1, "x"]).key == "defense.weights.1"
    with pytest.raises(ConfigError, match=r"attack.schedul: must be one of .*did you mean 'schedule'\?"):
        make_campaigns(config_of(attack=noise(schedul=1)), np.array([1]))
    with pytest.raises(ConfigError, match=r"defense.bound: .*:Bare has no options; received 'bound'"):
        make_defense(config_of(defense={"name": f"{OWN}:Bare", "bound": 1}))


@pytest.mark.parametrize(
    ("options", "key", "rule"),
    [
        ({"count": True}, "count", "boolean"),
        ({"count": np.False_}, "count", "boolean"),
        ({"share": False}, "share", "boolean"),
        ({"side": True}, "side", "boolean"),
        ({"weights": [0.5, True]}, "weights.1", "boolean"),
        ({"share": np.inf}, "share", "finite"),
        ({"share": "nan"}, "share", "finite"),
        ({"bound": -np.inf}, "bound", "finite"),
        ({"weights": (-np.inf, 1)}, "weights.0", "finite"),
    ],
)
def test_booleans_and_infinities_are_no_numbers(options, key, rule):
    with pytest.raises(ConfigError, match=rule) as caught:
        make("defense", DEFENSES, Component(name=f"{OWN}:Numbers", **options), Defense)
    assert caught.value.key == f"defense.{key}"


def test_booleans_where_they_belong_and_defaults_pass():
    options = {"switch": True, "either": True, "bound": np.inf, "weights": [1]}
    made = make("defense", DEFENSES, Component(name=f"{OWN}:Numbers", **options), Defense)
    assert made == Numbers(switch=True, either=True, weights=(1.0,))


@pytest.mark.parametrize("kind", ["attack", "defense", "data.partition", "updates"])
def test_no_component_takes_a_boolean_or_infinity_for_a_number(kind):
    table = {"attack": ATTACKS, "defense": DEFENSES, "data.partition": PARTITIONS, "updates": UPDATES}[kind]
    for name, cls in table.items():
        for option in fields(cls):
            wrong = (np.inf, np.nan) if isinstance(option.default, bool) else (np.inf, np.nan, True)
            for value in wrong:
                with pytest.raises(ConfigError) as caught:
                    make(kind, table, Component(name=name, **{option.name: value}))
                assert caught.value.key.startswith(f"{kind}.{option.name}"), (name, value)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nowhere.at_all:Thing", "must be importable (ModuleNotFoundError: No module named 'nowhere')"),
        (f"{OWN}:Missing", "must be importable (AttributeError:"),
        (":Thing", "must be importable (ValueError:"),
        (f"{OWN}:Targeted", "must name a dataclass that derives from raysim.Defense"),
        (f"{OWN}:config_of", "must name a dataclass that derives from raysim.Defense"),
        ("math:pi", "must name a dataclass that derives from raysim.Defense"),
        (f"{OWN}:Undecorated", "must be frozen: write @dataclass(frozen=True) above its class"),
    ],
)
def test_wrong_import_paths_are_refused(path, problem):
    error = refusal(defense=path)
    assert (error.key, error.value) == ("defense.name", path)
    assert problem in error.rule


def test_a_dot_for_the_colon_of_an_import_path_gets_the_hint(tiny):
    with pytest.raises(
        ConfigError, match=r"behind a colon.*did you mean 'tests\.stateful_methods:Reputation'"
    ):
        compose(ExperimentConfig.from_mapping({**tiny, "defense": "tests.stateful_methods.Reputation"}))


def test_partitions_by_import_path():
    experiment = compose(config_of(data={"name": "digits", "limit": 200, "partition": f"{OWN}:Half"}))
    assert experiment.sizes.tolist() == [90, 0, 0, 0, 0, 0, 0, 90]
    error = refusal(data={"name": "digits", "partition": "math:pi"})
    assert (error.key, error.rule) == ("data.partition.name", "must name a dataclass")
