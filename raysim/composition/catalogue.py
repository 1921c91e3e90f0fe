"""What `raysim list KIND` says of every component: read in the source, so that no table is imported, and torch neither.

The tables are literals in the modules of `TABLES`. Each entry is followed to the class or function that it names, whose
docstring begins with the line that is shown; `paper` is the attribute of the class, or of the nearest base that has one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from raysim.composition.lookup import entry_points, loaded
from raysim.errors import unknown_name
from raysim.own_packages import ROOT

TABLES: Mapping[str, tuple[str, str, str]] = {
    "attacks": ("attack", "attacks.table", "ATTACKS"),
    "defenses": ("defense", "defenses.table", "DEFENSES"),
    "datasets": ("data", "raysim.data", "DATASETS"),
    "models": ("model", "raysim.models", "MODELS"),
    "partitions": ("data.partition", "raysim.data.partition", "PARTITIONS"),
    "devices": ("population.devices", "raysim.fleet", "DEVICES"),
    "updates": ("updates", "raysim.engine.drawn_updates", "UPDATES"),
}
"""What `raysim list` calls a kind -> the configuration group it is for, and the module and name of its table."""

Defined: TypeAlias = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True)
class Listed:
    """One component in a line; paper: "" if it follows none."""

    name: str
    text: str
    paper: str = ""


def catalogue(kind: str) -> tuple[Listed, ...]:
    """The components of a kind, the built-in ones in the order of their table, then those of installed packages.

    Only what packages offer is imported. ConfigError for an unknown kind.
    """
    if kind not in TABLES:
        raise unknown_name("list", kind, TABLES)
    group, module, variable = TABLES[kind]
    own = _table(module, variable)
    offered = {name: loaded(group, point) for name, point in entry_points(group, own).items()}
    return (
        *(_read(name, *_defined(module, value)) for name, value in own.items()),
        *(Listed(name, _first_line(thing), getattr(thing, "paper", "")) for name, thing in offered.items()),
    )


def _first_line(thing: object) -> str:
    """What a component says of itself; of an `Architecture`, what the function says that builds it."""
    described = thing if isinstance(thing, type) else getattr(thing, "build", thing)
    return (inspect.getdoc(described) or "").partition("\n")[0]


def _table(module: str, variable: str) -> dict[str, ast.expr]:
    """Key -> value of the dict that a module assigns to the variable, alone or as the argument of a call."""
    for node in _source(module).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == variable and node.value:
            value = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            assert isinstance(value, ast.Dict), f"{module}.{variable} is a literal"
            return {
                str(ast.literal_eval(key)): item
                for key, item in zip(value.keys, value.values, strict=True)
                if key is not None
            }
    raise AssertionError(f"{module} has no {variable}")


def _defined(module: str, value: ast.expr) -> tuple[str, Defined]:
    """The module that defines what an expression names, and the definition; of a call, what its first argument names."""
    if isinstance(value, ast.Call):
        return _defined(module, value.args[0])
    name = ast.unparse(value)
    first, _, attribute = name.partition(".")
    for node in _source(module).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == first:
                    if attribute:
                        return _defined(f"{node.module}.{alias.name}", ast.Name(attribute))
                    return _defined(node.module, ast.Name(alias.name))
    raise AssertionError(f"{module} says nothing of {name}")


def _read(name: str, module: str, node: Defined) -> Listed:
    text = (ast.get_docstring(node) or "").partition("\n")[0]
    return Listed(name, text, _paper(module, node))


def _paper(module: str, node: Defined) -> str:
    if not isinstance(node, ast.ClassDef):
        return ""
    for line in node.body:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        if (
            isinstance(line, ast.Assign | ast.AnnAssign)
            and isinstance(target, ast.Name)
            and target.id == "paper"
        ):
            return str(ast.literal_eval(line.value)) if line.value else ""
    ours = [
        base
        for base in node.bases
        if isinstance(base, ast.Name) and base.id not in ("ABC", "Protocol", "Generic")
    ]
    return next((found for base in ours if (found := _paper(*_defined(module, base)))), "")


@cache
def _source(module: str) -> ast.Module:
    place = ROOT.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))
