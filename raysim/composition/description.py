"""One attack, defense, data set, model or partition in words: what `raysim list defense flame` prints."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from raysim import data as datasets
from raysim.attack import Attack
from raysim.composition.lookup import find
from raysim.composition.registry import TABLES, check_class
from raysim.config.yaml_text import values_in
from raysim.defense import Defense
from raysim.errors import ConfigError, unknown_name
from raysim.fleet.contract import Devices
from raysim.models import Architecture
from raysim.models import given as given_models
from raysim.option_docs import Option, options_of_call, options_of_class
from raysim.options import call_annotations, members, option_annotations
from raysim.requirement import Requirement

BASES: Mapping[str, type] = {"attack": Attack, "defense": Defense, "population.devices": Devices}
"""Configuration group -> what a class for it must derive from."""


@dataclass(frozen=True)
class Description:
    """What is known of one component.

    text: the rest of its docstring; reference: what its module begins with, up to the citation (paper, section); facts:
    further lines, (what, text): what it needs, what it sees; choices: the options that choose among named variants,
    `clustering=cosine|rows`; kin: its relatives in the table, (name, title).
    """

    name: str
    title: str
    paper: str
    reference: str
    place: str
    text: str
    options: tuple[Option, ...]
    facts: tuple[tuple[str, str], ...]
    choices: tuple[str, ...]
    kin: tuple[tuple[str, str], ...]
    example_yaml: str
    example_command: str


def describe(kind: str, name: str) -> Description:
    """What there is to know of `name`: one in the table of `kind`, of an installed package, or an import path.

    kind: a key of TABLES. ConfigError for what is not there, or is nothing of that kind.
    """
    if kind not in TABLES:
        raise unknown_name("list", kind, TABLES)
    group, table = TABLES[kind]
    thing = find(group, table, name)
    if name not in table:
        _check(group, name, thing)
    call = thing.build if isinstance(thing, Architecture) else thing
    doc = inspect.getdoc(call) or ""
    title, _, text = doc.partition("\n")
    module = sys.modules.get(call.__module__)
    options = _options(group, call)
    return Description(
        name=name,
        title=title,
        paper=getattr(call, "paper", ""),
        reference=_reference(module) if module and group in BASES else "",
        place=f"{call.__module__}:{call.__qualname__}",
        text=text.strip("\n"),
        options=options,
        facts=tuple(_facts(thing)),
        choices=tuple(_choices(call)),
        kin=tuple(_kin(name, thing, table)),
        **_examples(group, name, options),
    )


def _check(group: str, name: str, thing: object) -> None:
    """Refuse what a configuration would refuse."""
    if group in BASES or group == "data.partition":
        check_class(group, name, thing, BASES.get(group))
    elif not (callable(thing) or isinstance(thing, Architecture)):
        raise ConfigError(f"{group}.name", "must name a class or a function", name)


def _options(group: str, call: Any) -> tuple[Option, ...]:  # a class or a function
    if group == "model":
        return options_of_call(call, given_models.options_of(call))
    if group == "data":
        return options_of_call(call, datasets.options_of(call))
    return options_of_class(call) if hasattr(call, "__dataclass_fields__") else ()


def _reference(module: ModuleType) -> str:
    """What a method's module begins with, up to the paragraph that cites the paper: the first, where none does."""
    paragraphs = [" ".join(part.split()) for part in (inspect.getdoc(module) or "").split("\n\n")]
    cited = next((number for number, part in enumerate(paragraphs) if re.search(r"\b(19|20)\d\d\b", part)), 0)
    return " ".join(paragraphs[: cited + 1])


def _facts(thing: object) -> list[tuple[str, str]]:
    """What a defense needs and whether it can judge buffers, what an attack sees, which layers of a model are looked at."""
    if isinstance(thing, Architecture):
        return [("activation map", thing.cam_layer), ("last layer", thing.head)]
    if isinstance(thing, type) and issubclass(thing, Defense):
        needs = [(f"needs {need.label}", need.value) for need in Requirement if need in thing.needs]
        buffers = "can be judged" if thing.judges_buffers else "refused"
        return [
            *(needs or [("needs", "nothing beside the updates")]),
            ("asynchronous rounds", f"{buffers}: {thing.on_buffers}"),
        ]
    if isinstance(thing, type) and issubclass(thing, Attack):
        try:
            return [("sees", thing().visibility.value)]
        except (ConfigError, TypeError):  # an option without a default decides it
            return []
    return []


def _choices(call: Any) -> Iterator[str]:
    """The options whose values are names."""
    is_class = hasattr(call, "__dataclass_fields__")
    for name, annotation in (option_annotations(call) if is_class else call_annotations(call)).items():
        for part in members(annotation):
            bare = get_args(part)[0] if get_origin(part) is Annotated else part
            if get_origin(bare) is Literal and all(isinstance(choice, str) for choice in get_args(bare)):
                yield f"{name}={'|'.join(get_args(bare))}"


def _kin(name: str, thing: object, table: Mapping[str, object]) -> list[tuple[str, str]]:
    """Others in the table that derive from it, from which it derives, or that stand in its file."""
    if not isinstance(thing, type):
        return []
    return [
        (other, (inspect.getdoc(cls) or "").partition("\n")[0])
        for other, cls in table.items()
        if other != name
        and isinstance(cls, type)
        and (issubclass(cls, thing) or issubclass(thing, cls) or cls.__module__ == thing.__module__)
    ]


def _examples(group: str, name: str, options: tuple[Option, ...]) -> dict[str, str]:
    """The component with one of its options, in a file and on the command line."""
    shown = [option for option in options if option.default == "required"]
    shown = shown or [option for option in options if option.default != "null"][:1]
    chosen = {option.name: _value(option) for option in shown}
    nested: object = {"name": name, **{key: values_in(value, key) for key, value in chosen.items()}}
    for part in reversed(group.split(".")):
        nested = {part: nested}
    words = [f"{group}.{key}={value}" for key, value in {"name": name, **chosen}.items()]
    return {
        "example_yaml": yaml.safe_dump(nested, sort_keys=False, default_flow_style=None, width=100).rstrip(),
        "example_command": shlex.join(["raysim", "run", *words]),
    }


def _value(option: Option) -> str:
    """A value to show: the default, or the first that a range allows."""
    if option.default != "required":
        return option.default
    if option.kind == "str":
        return option.name.upper()
    return option.range.partition(",")[0].removeprefix("at least ") or "1"
