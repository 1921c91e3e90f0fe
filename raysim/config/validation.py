"""What pydantic refused, as a ConfigError: the dotted key, every rule it breaks, the value, the nearest valid choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from raysim.errors import ConfigError, nearest_name

Location = Sequence[int | str]

UNION_MEMBER = re.compile(r"(int|float|str|bool|literal\[.*|list\[.*|tuple\[.*|constrained-.*)$")
"""What pydantic puts behind a key to say which of the types it allows was tried."""


def refusal(
    error: ValidationError, key_of: Callable[[Location], str], root: type[BaseModel] | None = None
) -> ConfigError:
    """The first key that was refused. key_of: how a place in the values is written; root: the group they are for."""
    first, *others = error.errors()
    key = key_of(_own_part(first["loc"]))
    if first["type"] == "extra_forbidden" and root is not None:
        group = root
        for part in first["loc"][:-1]:
            if isinstance(part, str):
                group = _group_in(group.model_fields[part].annotation) or group
        names = sorted(group.model_fields)
        nearest = nearest_name(str(first["loc"][-1]), names)
        return ConfigError(key, f"unknown key; known here: {', '.join(names)}", first["input"], nearest)
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, ConfigError):
        return ConfigError(key or raised.key, raised.rule, raised.value, raised.nearest)
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


def _nearest(refused: ErrorDetails) -> object:
    """The bound that a value is beyond, or the name it resembles."""
    rule = refused.get("ctx", {})
    if isinstance(refused["input"], str):
        return nearest_name(refused["input"], re.findall("'([^']*)'", str(rule.get("expected", ""))))
    return rule.get("ge", rule.get("le"))


def _group_in(annotation: object) -> type[BaseModel] | None:
    """The group inside an annotation such as tuple[Attack, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _group_in(part)) is not None), None)
