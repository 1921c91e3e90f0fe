"""The house: folders import downwards only, no circle, no module too long to read in a sitting."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("raysim", "attacks", "defenses", "cluster")
FLOORS: dict[str, int] = {
    "raysim.__main__": 12,
    "raysim.cli": 11,
    "raysim.studies": 10,
    "raysim.replay": 10,
    "raysim.report": 9,
    "raysim": 9,
    "raysim.runs": 8,
    "raysim.composition": 7,
    "raysim.engine": 6,
    "attacks": 6,
    "defenses": 6,
    "raysim.attack": 5,
    "raysim.defense": 5,
    "raysim.verdict": 5,
    "raysim.context": 5,
    "raysim.config": 5,
    "raysim.presets": 4,
    "raysim.training": 4,
    "raysim.matrix": 3,
    "raysim.data": 3,
    "raysim.fleet": 3,
    "cluster": 3,
    "raysim.backends": 2,
    "raysim.models": 2,
    "raysim._moved": 1,
    "raysim.array_checks": 1,
    "raysim.errors": 1,
    "raysim.exit_status": 1,
    "raysim.formats": 1,
    "raysim.interruption": 1,
    "raysim.metrics": 1,
    "raysim.option_docs": 1,
    "raysim.options": 1,
    "raysim.own_packages": 1,
    "raysim.requirement": 1,
    "raysim.rng": 1,
    "raysim.round_notes": 1,
    "raysim.trees": 0,
    "raysim.version": 1,
}
"""Every room, the higher ones importing the lower ones. Rooms of one floor are ordered among themselves."""

LAZY = {("defenses", "raysim.composition"), ("raysim", "raysim.composition")}
"""Aliases that are looked up on first use: `defenses.evaluate` stands above the package it is called by."""

LONGEST = 400


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def room(module: str) -> str:
    """The longest room that the module lies in."""
    parts = module.split(".")
    return next(name for size in range(len(parts), 0, -1) if (name := ".".join(parts[:size])) in FLOORS)


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that the file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in modules() else node.module for name in found]
        else:
            continue
        yield from (name for name in found if name.split(".")[0] in PACKAGES)


@pytest.fixture(scope="module")
def arrows() -> dict[tuple[str, str], set[str]]:
    """(room, room it imports) -> the modules that do."""
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in modules().items():
        for other in imported(path):
            if (pair := (room(module), room(other)))[0] != pair[1] and pair not in LAZY:
                found.setdefault(pair, set()).add(module)
    return found


def test_every_module_lies_in_a_room_that_the_plan_knows() -> None:
    strays = [module for module in modules() if module != "raysim" and room(module) == "raysim"]
    assert not strays


def test_imports_between_rooms_go_down(arrows: dict[tuple[str, str], set[str]]) -> None:
    upward = {pair: who for pair, who in arrows.items() if FLOORS[pair[0]] < FLOORS[pair[1]]}
    assert not upward


def test_rooms_form_no_circle(arrows: dict[tuple[str, str], set[str]]) -> None:
    below: dict[str, set[str]] = {name: set() for name in FLOORS}
    for high, low in arrows:
        below[high].add(low)
    order = list(TopologicalSorter(below).static_order())
    assert set(order) == set(FLOORS)


def test_the_reader_of_imports_sees_them_all() -> None:
    """The proof above stands on `imported`: it must see imports of names, of modules, and inside functions."""
    found = {name for file in ("__init__", "table") for name in imported(ROOT / "defenses" / f"{file}.py")}
    assert {"defenses.krum", "raysim.composition.evaluate", "raysim.defense"} <= found


def test_no_module_is_longer_than_a_sitting() -> None:
    long = {
        module: lines
        for module, path in modules().items()
        if (lines := len(path.read_text().splitlines())) > LONGEST
    }
    assert not long
