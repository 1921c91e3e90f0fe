"""Every key of the configuration in words, read from the schema: what it is, its default, its range."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raysim.config.schema import LARGEST, ExperimentConfig, Group

REQUIRED = "required"
"""Stands where a key without a default would have one."""

BOUNDS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


@dataclass(frozen=True)
class Key:
    """One key: dotted name, kind of value, default as YAML writes it, range ("" = any), and what it means, with its unit."""

    name: str
    kind: str
    default: str
    range: str
    meaning: str

    def __str__(self) -> str:
        default = self.default if self.default == REQUIRED else f"default {self.default}"
        about = ", ".join(part for part in (self.kind, self.range, default) if part)
        return f"{self.name} ({about}): {self.meaning}"


def explained(
    group: type[Group] = ExperimentConfig, prefix: str = "", chosen: object = None
) -> Iterator[Key]:
    """The keys of a group and of the groups in it, in the order of the schema; chosen: the group as it is by default."""
    for name, field in group.model_fields.items():
        inner = list(dict.fromkeys(_groups(field.annotation)))
        if not inner:
            yield Key(
                prefix + name,
                _kind(field.annotation),
                _default(name, field, chosen),
                _range(field),
                field.description or "",
            )
        for part in inner:
            yield from explained(part, f"{prefix}{name}.", _one(field.default))


def _groups(annotation: object) -> list[type[Group]]:
    """The groups that a field holds: itself one, or a tuple of them."""
    if isinstance(annotation, type) and issubclass(annotation, Group):
        return [annotation]
    return [group for part in typing.get_args(annotation) for group in _groups(part)]


def _kind(annotation: object) -> str:
    """`int | null`, `auto, cpu or cuda`, `list of int`."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        *first, last = map(str, parts)
        return f"{', '.join(first)} or {last}" if first else last
    if origin is list:
        return f"list of {_kind(parts[0])}"
    if parts:
        return " | ".join(_kind(part) for part in parts)
    return str(getattr(annotation, "__name__", annotation))


def _range(field: FieldInfo) -> str:
    """The bounds on the field's value, or on a part of what it may be; not those that only keep numbers finite."""
    found = list(field.metadata)
    for part in typing.get_args(field.annotation):
        if typing.get_origin(part) is Annotated:
            for extra in typing.get_args(part)[1:]:
                found += extra.metadata if isinstance(extra, FieldInfo) else [extra]
    return ", ".join(
        text.format(limit)
        for bound in found
        for name, text in BOUNDS.items()
        if (limit := getattr(bound, name, None)) is not None and limit < LARGEST
    )


def _one(default: object) -> object:
    """The first of several defaults; None if there are none."""
    return (default[0] if default else None) if isinstance(default, tuple) else default


def _default(name: str, field: FieldInfo, chosen: object) -> str:
    value = getattr(chosen, name, field.default)
    if value is PydanticUndefined:
        return REQUIRED
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
