"""Declared options: what each annotation allows, what is refused and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import Ge, Lt, doc

from raysim.errors import ConfigError
from raysim.options import (
    AtLeastTwo,
    Count,
    Declared,
    Fraction,
    Positive,
    PositiveInt,
    allowed,
    arguments,
    option_annotations,
    rule,
    type_name,
)


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


def takes(
    count: Annotated[PositiveInt, doc("How many.")] = 1,
    kind: Literal["red", "blue"] = "red",
    sizes: Sequence[PositiveInt] = (1, 2),
    anything=None,
    ratio: float | None = None,
    sloppy: int = None,  # type: ignore[assignment]  # noqa: RUF013
):
    return count, kind, sizes, anything, ratio, sloppy


def test_options_of_a_function_are_held_as_its_annotations_say() -> None:
    assert arguments(takes, {"count": 2.0, "ratio": "1e-3", "sizes": [3]}) == {
        "count": 2,
        "ratio": 1e-3,
        "sizes": [3],
    }
    assert arguments(takes, {"anything": {1}, "sloppy": None}) == {"anything": {1}, "sloppy": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "model.count: must be at least 1; received 0; nearest valid: 1"),
        ({"count": True}, "model.count: must be a number, not a boolean"),
        ({"kind": "rad"}, "model.kind: must be one of blue, red; received 'rad'; did you mean 'red'?"),
        ({"sizes": 3}, "model.sizes: must be a list of int; received 3"),
        ({"sizes": [1, 0]}, "model.sizes.1: must be at least 1; received 0; nearest valid: 1"),
        ({"sloppy": "x"}, "model.sloppy: must be a whole number"),
    ],
)  # fmt: skip
def test_options_of_a_function_are_refused_like_those_of_a_method(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        arguments(takes, options, "model.")
    assert str(caught.value).startswith(message)


def test_an_annotation_says_what_it_allows_and_what_kind_it_is() -> None:
    found = option_annotations(Toy)
    assert {name: (type_name(a), allowed(a)) for name, a in found.items()} == {
        "count": ("int", "at least 0"),
        "most": ("int or null", "at least 1"),
        "share": ("float", "[0, 1]"),
        "below": ("float", "[0, 1)"),
        "rate": ("float", "above 0"),
        "limit": ("float", "above 0"),
        "kind": ("name", "red, blue"),
        "side": ("int or name", "at least 1, or native"),
        "on": ("bool", ""),
        "shots": ("list of int", "each at least 0"),
    }
    assert type_name(PositiveInt | tuple[PositiveInt, PositiveInt] | None) == "int or [int, int] or null"
