"""`name,key=value,...`: one syntax for commands and YAML."""

from __future__ import annotations

import pytest

from raysim.config.method_text import parse_method, parts, split_methods
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError


def test_values_are_yaml():
    assert parse_method("defense", "maps, hidden=[4, 8], on=true, q=0.9") == {
        "name": "maps",
        "hidden": [4, 8],
        "on": True,
        "q": 0.9,
    }
    assert parse_method("attack", "noise") == {"name": "noise"}


@pytest.mark.parametrize("text", ["", "a=1", "krum,3", "krum,=3", "krum,name=median", "krum,a=[1"])
def test_other_forms_are_refused(text):
    with pytest.raises(ConfigError, match=r"^defense(\.a)?: must"):
        parse_method("defense", text)


def test_options_belong_to_the_name_before_them():
    assert split_methods("defense", ["krum, pdrr,rule=median", "flame,"]) == [
        "krum",
        "pdrr,rule=median",
        "flame",
    ]
    with pytest.raises(ConfigError, match="must begin with a name"):
        split_methods("defense", ["rule=median,krum"])
    assert parts("a,b={x: [1, 2], y: 3},c") == ["a", "b={x: [1, 2], y: 3}", "c"]


def test_yaml_takes_it():
    config = ExperimentConfig(defense="krum,num_byzantine=3", attack=["noise,sigma=0.5", {"name": "ipm"}])
    assert (config.defense[0].name, config.defense[0].options) == ("krum", {"num_byzantine": 3})
    assert [attack.options for attack in config.attack] == [{"sigma": 0.5}, {}]
    with pytest.raises(ConfigError, match=r"^defense: must have the form name,key=value"):
        ExperimentConfig(defense="krum,3")
