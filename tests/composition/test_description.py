"""What is said of one component, and that the examples given with it are right."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from defenses.flame import Flame
from raysim.composition.catalogue import catalogue
from raysim.composition.description import describe
from raysim.composition.methods import make_methods
from raysim.composition.registry import TABLES
from raysim.config.load import load_config
from raysim.errors import ConfigError
from raysim.option_docs import Option

SHIPPED = [(kind, name) for kind, (_, table) in TABLES.items() for name in table]

MINE = '''
from dataclasses import dataclass
from typing import Annotated, Literal
from annotated_types import doc
from raysim import Attack, Count, Defense, Requirement
from torch import nn

@dataclass(frozen=True)
class Keep(Defense):
    """Keeps some.

    And drops the others.
    """

    paper = "Me, 2026"
    needs = frozenset({Requirement.LAST_LAYER, Requirement.SERVER_DATA})
    fewest: Count
    """How many stay."""
    by: Literal["length", "angle"] = "length"
    """What they are judged by."""

@dataclass(frozen=True)
class KeepMore(Keep):
    """Keeps more."""

class Net(nn.Sequential):
    """A layer."""
    def __init__(self, num_classes, width: Annotated[int, doc("Units.")] = 3):
        super().__init__(nn.Flatten(), nn.LazyLinear(width), nn.Linear(width, num_classes))

class Bare(Defense):
    """Lacks its decorator."""
    fewest: int = 3
'''


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=["-".join(pair) for pair in SHIPPED])
def test_both_examples_ask_for_the_same_and_can_be_made(kind: str, name: str) -> None:
    about = describe(kind, name)
    assert about.title == next(entry.text for entry in catalogue(kind) if entry.name == name)
    program, command, *words = shlex.split(about.example_command)
    assert (program, command) == ("raysim", "run")
    asked = load_config(None, words).to_mapping()
    for group, value in yaml.safe_load(about.example_yaml).items():
        part, found = value, asked[group]
        for inner in TABLES[kind][0].split(".")[1:]:
            part, found = part[inner], found[inner]
        found = found[0] if isinstance(found, list) else found
        assert part["name"] == name
        assert {key: found[key] for key in part} == part
        assert len(part) == 1 or next(iter({**part, "name": name})) == "name"
    make_methods(load_config(None, words))


def test_all_that_is_known_of_flame() -> None:
    about = describe("defenses", "flame")
    assert about.paper == "Nguyen et al., USENIX Security 2022"
    assert 'Nguyen et al., "FLAME: taming backdoors in federated learning"' in about.reference
    assert about.place == "defenses.flame:Flame"
    assert about.text.startswith("1. HDBSCAN")
    assert about.facts == (
        ("needs gram", "the inner products of all updates [K, K]"),
        ("asynchronous rounds", f"refused: {Flame.on_buffers}"),
    )
    assert about.choices == ("clustering=cosine|rows",)
    assert about.options[0] == Option(
        "noise_factor", "float", "0.001", "at least 0",
        "Standard deviation of the noise in median norms S (the paper's empirical value: 0.001).",
    )  # fmt: skip
    assert about.example_yaml == "defense: {name: flame, noise_factor: 0.001}"
    assert about.example_command == "raysim run defense.name=flame defense.noise_factor=0.001"


def test_relatives_sections_layers_and_what_an_attack_sees() -> None:
    assert [name for name, _ in describe("defenses", "flare").kin] == ["flare_code"]
    assert "section 5" in describe("defenses", "err").reference
    assert ("activation map", "layer4.1") in describe("models", "resnet18").facts
    assert describe("attacks", "noise").facts == (("sees", "every client's model of the round"),)
    needs, buffers = describe("defenses", "fedavg").facts
    assert needs == ("needs", "nothing beside the updates")
    assert buffers[1].startswith("can be judged: a mean weighs every update alone")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_listed_methods.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return "my_listed_methods"


def test_a_users_own_is_described_by_its_import_path(mine: str) -> None:
    about = describe("defenses", f"{mine}:Keep")
    assert (about.title, about.paper, about.text) == ("Keeps some.", "Me, 2026", "And drops the others.")
    assert [what for what, _ in about.facts] == [
        "needs server data",
        "needs last layer",
        "asynchronous rounds",
    ]
    assert about.options == (
        Option("fewest", "int", "required", "at least 0", "How many stay."),
        Option("by", "name", "length", "length, angle", "What they are judged by."),
    )
    assert about.example_command == f"raysim run defense.name={mine}:Keep defense.fewest=0"
    assert describe("models", f"{mine}:Net").options == (Option("width", "int", "3", "", "Units."),)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("defenses", "flam", "did you mean 'flame'"),
        (
            "defenses",
            "{}.Keep",
            "behind a colon, package.module:Class; received '{}.Keep'; did you mean '{}:Keep'",
        ),
        ("defenses", "{}:Bare", "must be frozen: write @dataclass(frozen=True) above its class"),
        ("attacks", "{}:Keep", "must name a dataclass that derives from raysim.Attack"),
        ("models", "{}:MISSING", "must be importable"),
        ("defences", "flame", "did you mean 'defenses'"),
    ],
)
def test_what_is_none_is_refused(kind: str, name: str, said: str, mine: str) -> None:
    with pytest.raises(ConfigError) as caught:
        describe(kind, name.replace("{}", mine))
    assert said.replace("{}", mine) in str(caught.value)


@dataclass(frozen=True)
class Marker:
    """No partition."""


def test_a_dataclass_of_no_kind_has_no_options() -> None:
    assert describe("partitions", f"{__name__}:Marker").options == ()
