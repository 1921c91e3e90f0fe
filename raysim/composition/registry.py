"""Attacks, defenses and all other components by name: the table of each kind, and how one is made."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from attacks import ATTACKS
from defenses import DEFENSES
from raysim import data as datasets
from raysim.attack import Attack
from raysim.config.load import preset_names, read_yaml
from raysim.config.schema import Component
from raysim.config.validation import refusal, refuse_odd_numbers
from raysim.data.partition import PARTITIONS
from raysim.defense import Defense, title
from raysim.engine.drawn_updates import UPDATES
from raysim.errors import ConfigError, unknown_name
from raysim.models import MODELS
from raysim.presets import PRESETS, generated

Method = TypeVar("Method")


def catalogue(kind: str) -> Mapping[str, str]:
    """Name -> one-line description, for `raysim list KIND`."""
    tables: Mapping[str, Mapping[str, Any]] = {
        "attacks": ATTACKS,
        "defenses": DEFENSES,
        "datasets": datasets.DATASETS,
        "partitions": PARTITIONS,
        "updates": UPDATES,
    }
    if kind == "models":
        return {name: architecture.description for name, architecture in MODELS.items()}
    if kind == "presets":
        return {name: _preset_description(name) for name in preset_names()}
    if kind not in tables:
        raise unknown_name("list", kind, [*tables, "models", "presets"])
    return {name: (inspect.getdoc(thing) or "").partition("\n")[0] for name, thing in tables[kind].items()}


def papers(kind: str) -> Mapping[str, str]:
    """Name -> the paper it follows, for `raysim list KIND`; empty for kinds that follow none."""
    tables: Mapping[str, Mapping[str, type[Attack] | type[Defense]]] = {
        "attacks": ATTACKS,
        "defenses": DEFENSES,
    }
    return {name: cls.paper for name, cls in tables.get(kind, {}).items()}


def defense_title(name: str, label: str = "") -> str:
    """How tables name a defense that was measured earlier: `raysim.defense.title` of `label`, by default its name.

    name: as configured; what follows a comma are its options. One that is not known here (an import path that can no
    longer be imported) keeps its label.
    """
    label, name = label or name, name.partition(",")[0]
    try:
        cls = _imported("defense", name, Defense) if ":" in name else DEFENSES.get(name)
    except ConfigError:
        cls = None
    return label if cls is None else title(label, cls)


def make(
    group: str, table: Mapping[str, type[Method]], component: Component, base: type | None = None
) -> Method:
    """The component's class with its options, every key and type checked.

    A name with a colon is an import path, `package.module:Class`. A boolean for a number is refused, and so is a
    number that is not finite unless it is the option's default.
    """
    cls = _imported(group, component.name, base) if ":" in component.name else table.get(component.name)
    if cls is None:
        module, _, name = component.name.rpartition(".")
        if module:
            rule = "must name its class behind a colon, package.module:Class"
            raise ConfigError(f"{group}.name", rule, component.name, f"{module}:{name}")
        raise unknown_name(f"{group}.name", component.name, table)
    fields = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    beside = [key for key in type(component).model_fields if key != "name"]
    for option in component.options:
        if option not in fields:
            raise (
                unknown_name(f"{group}.{option}", option, [*fields, *beside])
                if fields or beside
                else ConfigError(f"{group}.{option}", f"{component.name} has no options", option)
            )
    refuse_odd_numbers(group, cls, component.options)
    try:
        method: Method = TypeAdapter(cls).validate_python(component.options)
        return method
    except ValidationError as error:
        cause = error.errors()[0].get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise cause.under(group) from None
        raise refusal(error, lambda location: ".".join([group, *map(str, location)])) from None


def _defaults(method: Any) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method) if field.init}


def _imported(group: str, path: str, base: type | None) -> Any:
    module_name, _, class_name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{group}.name", f"must be importable ({problem})", path) from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, base or object)):
        kind = f" that derives from raysim.{base.__name__}" if base else ""
        raise ConfigError(f"{group}.name", f"must name a dataclass{kind}", path)
    own = vars(cls).get(
        "__dataclass_params__"
    )  # a base class's says nothing of the fields that this one adds
    if own is None or not own.frozen:
        raise ConfigError(
            f"{group}.name", "must be frozen: write @dataclass(frozen=True) above its class", path
        )
    return cls


def _preset_description(name: str) -> str:
    if preset := generated().get(name):
        return preset.description
    for line in (PRESETS / f"{name}.yaml").read_text().splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return ", ".join(
        f"{group} {value.get('name')}"
        for group, value in read_yaml(name).items()
        if isinstance(value, dict) and "name" in value
    )
