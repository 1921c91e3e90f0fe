"""What pydantic refused, as a ConfigError: the dotted key, every rule it breaks, the value, the nearest valid choice;
and what it should have refused."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import numpy as np
from pydantic import BaseModel, ValidationError

from raysim.errors import ConfigError, nearest_name

Location = Sequence[int | str]

UNION_MEMBER = re.compile(r"(int|float|str|bool|literal\[.*|list\[.*|tuple\[.*|constrained-.*)$")
"""What pydantic puts behind a key to say which of the types it allows was tried."""

NOT_FINITE = re.compile(r"\s*[+-]?(inf|infinity|nan)\s*", re.IGNORECASE)
"""How a float that is not finite is written, also in the texts that pydantic takes for numbers."""


def refusal(
    error: ValidationError, key_of: Callable[[Location], str], root: type[BaseModel] | None = None
) -> ConfigError:
    """The first key that was refused. key_of: how a place in the values is written; root: the group they are for."""
    first, *others = error.errors()
    key = key_of(_own_part(first["loc"]))
    if first["type"] == "extra_forbidden" and root is not None:
        group: Any = root
        for part in first["loc"][:-1]:
            group = group if isinstance(part, int) else _group_in(group.model_fields[part].annotation)
        names = sorted(group.model_fields)
        nearest = nearest_name(str(first["loc"][-1]), names)
        return ConfigError(key, f"unknown key; known here: {', '.join(names)}", first["input"], nearest)
    refusals = [first, *(other for other in others if key_of(_own_part(other["loc"])) == key)]
    rules = [item["msg"].removeprefix("Input ").removeprefix("Value error, ") for item in refusals]
    choices = [choice for item in refusals if (choice := _nearest(item)) is not None]
    return ConfigError(
        key,
        ", or ".join(rule[0].lower() + rule[1:] for rule in dict.fromkeys(rules)),
        first["input"],
        choices[0] if choices else None,
    )


def _own_part(location: Location) -> Location:
    """The place of the key itself, without the types that were tried for it and what lies inside."""
    for depth, part in enumerate(location):
        if isinstance(part, str) and UNION_MEMBER.match(part):
            return location[:depth]
    return location


def _nearest(refused: Any) -> Any:
    """The bound that a value is beyond, or the name it resembles."""
    rule = refused.get("ctx", {})
    if isinstance(refused["input"], str):
        return nearest_name(refused["input"], re.findall("'([^']*)'", str(rule.get("expected", ""))))
    return rule.get("ge", rule.get("le"))


def _group_in(annotation: Any) -> Any:
    """The group inside an annotation such as tuple[Attack, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _group_in(part)) is not None), None)


def refuse_odd_numbers(group: str, cls: Any, options: Mapping[str, Any]) -> None:
    """ConfigError for what pydantic takes for a number of a dataclass: true and false, infinity and NaN.

    A field's own default is let through.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    modules = [vars(sys.modules[base.__module__]) for base in reversed(cls.__mro__)]
    known = {name: value for module in modules for name, value in module.items()}
    # Only the options given are looked up: another field's type may be imported for type checking alone.
    annotated = SimpleNamespace(__annotations__={option: fields[option].type for option in options})
    for option, annotation in get_type_hints(annotated, known).items():
        kinds = _kinds(annotation)
        if kinds & {int, float}:
            _check_number(f"{group}.{option}", options[option], kinds, fields[option].default)


def _check_number(key: str, value: Any, kinds: set[Any], default: Any) -> None:
    if isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_number(f"{key}.{number}", item, kinds, default)
    elif isinstance(value, bool | np.bool_):
        if bool not in kinds:
            raise ConfigError(key, "must be a number, not a boolean", bool(value))
    elif float in kinds and NOT_FINITE.fullmatch(str(value)) and float(value) != default:
        raise ConfigError(key, "must be a finite number", value)


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    own = {annotation} if isinstance(annotation, type) else set()
    return own.union(*map(_kinds, get_args(annotation)))
