"""What options mean is read from where they are written; every option that ships says it."""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from annotated_types import doc

from raysim import data as datasets
from raysim.composition.registry import TABLES
from raysim.models import given as given_models
from raysim.option_docs import Option, attribute_docs, options_of_call, options_of_class
from raysim.options import Count, Declared, Fraction


@dataclass(frozen=True)
class Base(Declared):
    count: Count = 3
    """How many."""
    share: Fraction | None = None
    """Which part:
    in two lines."""
    silent: int = 0


@dataclass(frozen=True)
class Own(Base):
    """Not an attribute's string."""

    count: Count = 4
    """How many here."""
    sizes: tuple[int, ...] = field(default=(1, 2))
    """Sizes."""
    hidden: int = field(init=False, default=0)
    """Nothing to set."""
    plain = 1
    """A class attribute."""


def test_the_string_under_an_attribute_is_its_docstring() -> None:
    assert attribute_docs(Base) == {"count": "How many.", "share": "Which part: in two lines."}
    assert attribute_docs(Own) == {
        "count": "How many here.",
        "share": "Which part: in two lines.",
        "sizes": "Sizes.",
        "hidden": "Nothing to set.",
        "plain": "A class attribute.",
    }


def test_classes_inside_functions_and_classes_have_docstrings_too() -> None:
    class Local(Declared):
        rate: float = 0.1
        """Inside."""

        class Inner:
            rate: float = 0.2
            """Deeper."""

    assert attribute_docs(Local) == {"rate": "Inside."}
    assert attribute_docs(Local.Inner) == {"rate": "Deeper."}


def test_without_a_source_there_are_none() -> None:
    assert attribute_docs(types.new_class("Typed")) == {}
    namespace: dict[str, type] = {}
    exec("class Typed:\n    rate: float = 1\n    'Rate.'", namespace)
    assert attribute_docs(namespace["Typed"]) == {}


def test_options_of_a_class_in_words() -> None:
    assert options_of_class(Own) == (
        Option("count", "int", "4", "at least 0", "How many here."),
        Option("share", "float or null", "null", "[0, 1]", "Which part: in two lines."),
        Option("silent", "int", "0", "", ""),
        Option("sizes", "list of int", "[1, 2]", "", "Sizes."),
    )


def test_options_of_a_function_in_words() -> None:
    def net(
        classes,
        depth: Annotated[Count, doc("Layers.")],
        norm: Annotated[Literal["batch", "group"] | None, doc("Normalisation.")] = None,
        width: float = 1.0,
    ):
        return classes, depth, norm, width

    assert options_of_call(net, ("depth", "norm", "width")) == (
        Option("depth", "int", "required", "at least 0", "Layers."),
        Option("norm", "name or null", "null", "batch, group", "Normalisation."),
        Option("width", "float", "1.0", "", ""),
    )


SHIPPED = [(kind, name) for kind, (_, table) in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=["-".join(pair) for pair in SHIPPED])
def test_every_option_says_what_it_means(kind: str, name: str) -> None:
    thing = TABLES[kind][1][name]
    if kind == "models":
        options = options_of_call(thing.build, given_models.options_of(thing.build))
    elif kind == "datasets":
        options = options_of_call(thing, datasets.options_of(thing))
    else:
        options = options_of_class(thing)
    for option in options:
        assert option.meaning.endswith("."), option
        assert option.kind, option
