"""Attacks, defenses and all other components by name: the table of each kind, and how one is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from attacks.table import ATTACKS
from defenses.table import DEFENSES
from raysim import data as datasets
from raysim.composition.lookup import find, imported
from raysim.config.schema import Component
from raysim.data.partition import PARTITIONS
from raysim.defense import Defense, title
from raysim.engine.drawn_updates import UPDATES
from raysim.errors import ConfigError, unknown_name
from raysim.fleet import DEVICES
from raysim.models import MODELS
from raysim.options import construct

Method = TypeVar("Method")


TABLES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "attacks": ("attack", ATTACKS),
    "defenses": ("defense", DEFENSES),
    "datasets": ("data", datasets.DATASETS),
    "models": ("model", MODELS),
    "partitions": ("data.partition", PARTITIONS),
    "devices": ("population.devices", DEVICES),
    "updates": ("updates", UPDATES),
}
"""What `raysim list` calls a kind -> the configuration group it is for, and the built-in ones."""


def defense_title(name: str, label: str = "") -> str:
    """How tables name a defense that was measured earlier: `raysim.defense.title` of `label`, by default its name.

    name: as configured; what follows a comma are its options. One that is not known here (an import path that can no
    longer be imported) keeps its label.
    """
    label, name = label or name, name.partition(",")[0]
    try:
        cls = imported("defense", name) if ":" in name else DEFENSES.get(name)
    except ConfigError:
        cls = None
    return title(label, cls) if isinstance(cls, type) and issubclass(cls, Defense) else label


def make(
    group: str, table: Mapping[str, type[Method]], component: Component, base: type | None = None
) -> Method:
    """The component's class with its options, every key and type checked.

    What a name can be says `lookup.find`. A boolean for a number is refused, and so is a
    number that is not finite unless it is the option's default.
    """
    cls = find(group, table, component.name)
    if component.name not in table:
        check_class(group, component.name, cls, base)
    fields = [field.name for field in dataclasses.fields(cls) if field.init]
    beside = [key for key in type(component).model_fields if key != "name"]
    for option in component.options:
        if option not in fields:
            raise (
                unknown_name(f"{group}.{option}", option, [*fields, *beside])
                if fields or beside
                else ConfigError(f"{group}.{option}", f"{component.name} has no options", option)
            )
    try:
        method: Method = construct(cls, component.options)
        return method
    except ConfigError as error:
        raise error.under(group) from None


def check_class(group: str, name: str, cls: object, base: type | None) -> None:
    """A class of a user's own must be a dataclass of the right kind."""
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and issubclass(cls, base or object)):
        kind = f" that derives from raysim.{base.__name__}" if base else ""
        raise ConfigError(f"{group}.name", f"must name a dataclass{kind}", name)
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise ConfigError(f"{group}.name", f"must define {', '.join(lacking)}", name)
    own = vars(cls).get(
        "__dataclass_params__"
    )  # a base class's says nothing of the fields that this one adds
    if own is None or not own.frozen:
        rule = "must be frozen: write @dataclass(frozen=True) above its class"
        raise ConfigError(f"{group}.name", rule, name)
