"""Declared options: what each annotation allows, what is refused and how, and that every option says what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Lt

from attacks import ATTACKS
from defenses import DEFENSES
from raysim.data.partition import PARTITIONS
from raysim.engine.drawn_updates import UPDATES
from raysim.errors import ConfigError
from raysim.options import (
    AtLeastTwo,
    Count,
    Declared,
    Fraction,
    Positive,
    PositiveInt,
    option_annotations,
    rule,
)

METHODS: dict[str, Any] = {**ATTACKS, **DEFENSES, **PARTITIONS, **UPDATES}


@dataclass(frozen=True)
class Toy(Declared):
    count: Count = 3
    most: PositiveInt | None = None
    share: Fraction = 0.5
    below: Annotated[float, Ge(0), Lt(1)] = 0.0
    rate: Positive = 0.1
    limit: Positive = math.inf
    kind: Literal["red", "blue"] = "red"
    side: PositiveInt | Literal["native"] = "native"
    on: bool = False
    shots: Sequence[Count] = ()


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"count": np.int64(4)}, {"share": 1}, {"share": 0.0}, {"most": 1}, {"rate": np.float32(2)},
     {"side": 3}, {"shots": (0, 2)}, {"shots": [1]}, {"on": True}, {"limit": math.inf}],
)  # fmt: skip
def test_allowed(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    assert getattr(Toy(**options), name) == value


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "count: must be at least 0; received -1; nearest valid: 0"),
        ({"count": 1.5}, "count: must be a whole number, at least 0; received 1.5; nearest valid: 2"),
        ({"count": "many"}, "count: must be a whole number, at least 0; received 'many'"),
        ({"share": "half"}, "share: must be a finite number, lie in [0, 1]; received 'half'"),
        ({"shots": "ab"}, "shots: must be a list of int; received 'ab'"),
        ({"count": True}, "count: must be a number, not a boolean; received True"),
        ({"most": 0}, "most: must be at least 1, or null; received 0; nearest valid: 1"),
        ({"share": 1.5}, "share: must lie in [0, 1]; received 1.5; nearest valid: 1.0"),
        ({"below": 1.0}, "below: must lie in [0, 1); received 1.0; nearest valid: 0.0"),
        ({"rate": 0}, "rate: must be above 0; received 0; nearest valid: 0.1"),
        ({"rate": math.inf}, "rate: must be a finite number; received inf"),
        ({"limit": math.nan}, "limit: must be a finite number; received nan"),
        ({"kind": "rad"}, "kind: must be one of blue, red; received 'rad'; did you mean 'red'?"),
        ({"side": 0}, "side: must be at least 1, or be one of native; received 0; nearest valid: 1"),
        ({"on": 1}, "on: must be true or false; received 1"),
        ({"shots": (0, -2)}, "shots.1: must be at least 0; received -2; nearest valid: 0"),
    ],
)  # fmt: skip
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Toy(**options)
    assert str(caught.value).startswith(message)


def test_annotations_are_resolved_once() -> None:
    assert option_annotations(Toy) is option_annotations(Toy)
    assert rule(option_annotations(Toy)["most"]) == "be at least 1, or null"
    assert rule(AtLeastTwo) == "be at least 2"


@pytest.mark.parametrize("name", METHODS)
def test_every_option_of_every_method_is_documented(name: str) -> None:
    """A string literal stands under each field, in the class or the base that declares it."""
    documented: set[str] = set()
    for base in METHODS[name].__mro__[:-1]:
        module = ast.parse(inspect.getsource(sys.modules[base.__module__]))
        body = next(
            node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == base.__name__
        )
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                documented.add(ast.unparse(field.target))
    missing = {field.name for field in dataclasses.fields(METHODS[name])} - documented
    assert not missing
