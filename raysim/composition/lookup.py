"""What a name in a configuration stands for: a built-in, an import path, or what an installed package offers."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from raysim.errors import ConfigError, unknown_name

ENTRY_POINTS: Mapping[str, str] = {
    "attack": "raysim.attacks",
    "defense": "raysim.defenses",
    "model": "raysim.models",
    "data": "raysim.datasets",
    "data.partition": "raysim.partitions",
    "population.devices": "raysim.devices",
}
"""Configuration group -> the group of entry points with which packages offer components for it."""

OBJECT = "object:"
"""What the name of a component begins with that was handed over as a Python object."""


def find(group: str, table: Mapping[str, object], name: str) -> Any:
    """The class or function that `name` stands for in a configuration group (`defense`, `attack.1`).

    Of whatever kind it is, for the caller to check. A key of `table`; an import path `package.module:Thing` (also of a
    module in the current folder); the name of an entry point of ENTRY_POINTS. ConfigError for anything else, and where a
    package claims a name that is taken.
    """
    if name.startswith(OBJECT):
        parameter = re.split(r"\.(?!partition)", group)[0].removeprefix("data.")
        rule = f"was an object of the program that started this run: pass it again to raysim.resume(..., {parameter}=...)"
        raise ConfigError(f"{group}.name", rule, name)
    if ":" in name:
        return imported(group, name)
    if name in table:
        return table[name]
    offered = entry_points(group, table)
    if name not in offered:
        module, _, last = name.rpartition(".")
        if module:
            rule = "must name its class behind a colon, package.module:Class"
            raise ConfigError(f"{group}.name", rule, name, f"{module}:{last}")
        raise unknown_name(f"{group}.name", name, [*table, *offered])
    return loaded(group, offered[name])


def entry_points(group: str, table: Mapping[str, object]) -> dict[str, metadata.EntryPoint]:
    """Name -> what an installed package offers under it, for one configuration group."""
    kind = ENTRY_POINTS.get(re.sub(r"\.\d+$", "", group), "")
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=kind) if kind else ():
        if point.name in table or found.get(point.name, point) != point:
            owner = "raysim itself" if point.name in table else f"{found[point.name].value} too"
            rule = (
                f"must be one thing: the entry point {point.value} of group {kind} claims a name of {owner}"
            )
            raise ConfigError(f"{group}.name", rule, point.name)
        found[point.name] = point
    return found


def loaded(group: str, point: metadata.EntryPoint) -> Any:
    """What an entry point names."""
    try:
        return point.load()
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{group}.name", f"must be importable ({problem})", point.value) from error


def imported(group: str, path: str) -> Any:
    """What an import path names."""
    module_name, _, attribute = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{group}.name", f"must be importable ({problem})", path) from error
