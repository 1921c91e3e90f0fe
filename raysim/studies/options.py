"""How the fields of a plan are written: numbers and words with commas between, sizes of images, methods with options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import MinLen
from pydantic import BeforeValidator

from raysim.config.method_text import split_methods
from raysim.errors import ConfigError
from raysim.options import AtLeastTwo, Count, PositiveInt


@dataclass(frozen=True)
class Written:
    """How a field is written on the command line, if not as its type says.

    metavar: what stands for its value in the help. argument: by its place, not by its name. many: may be given several
    times. option: its spelling, if not that of the field. text: its value is read by the field, not by the command.
    """

    metavar: str = ""
    argument: bool = False
    many: bool = False
    option: str = ""
    text: bool = True


def words_of(text: str) -> tuple[str, ...]:
    """The words between commas.

    >>> words_of("noise, sign_flip")
    ('noise', 'sign_flip')
    """
    return tuple(word.strip() for word in text.split(",") if word.strip())


def listed(value: object) -> object:
    """A text as the words between its commas; anything else as it is."""
    return words_of(value) if isinstance(value, str) else value


def numbers(value: str | Iterable[int]) -> tuple[int, ...]:
    """`50,1_000` as (50, 1000): whole, ascending and different; ConfigError otherwise."""
    if isinstance(value, str):
        words = [word.replace("_", "") for word in words_of(value)]
        if not (words and all(word.isdecimal() for word in words)):
            raise ConfigError("", "must be whole numbers with commas between", value)
        value = [int(word) for word in words]
    found = tuple(value)
    if list(found) != sorted(set(found)):
        nearest = ",".join(map(str, sorted(set(found)))) or None
        raise ConfigError("", "must ascend without repeats", found, nearest)
    return found


def distinct(read: Callable[[str], object], rule: str) -> Callable[[object], object]:
    """A reader of lists whose words `read` reads, each kept once; ConfigError with the rule if one cannot be read."""

    def words(value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            found = tuple(dict.fromkeys(read(word) for word in words_of(value)))
        except ValueError:
            found = ()
        if not found:
            raise ConfigError("", rule, value)
        return found

    return words


def image_shape(value: object) -> Any:
    """Channels, height and width from `3x32x32`."""
    if not isinstance(value, str):
        return value
    parts = value.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ConfigError("", "must be CHANNELSxHEIGHTxWIDTH", value, "1x28x28")
    return tuple(map(int, parts))


def image_shapes(value: object) -> object:
    """Several of these, `1x28x28,3x32x32`."""
    return tuple(map(image_shape, words_of(value))) if isinstance(value, str) else value


def shape_text(shape: tuple[int, int, int]) -> str:
    """A size as it is written.

    >>> shape_text((3, 32, 32))
    '3x32x32'
    """
    return "x".join(map(str, shape))


def labels(value: str | Iterable[str]) -> tuple[str, ...]:
    """Methods with their options, each named once: `krum,pdrr,rule=median` as ("krum", "pdrr,rule=median")."""
    found = tuple(split_methods("", [value] if isinstance(value, str) else list(value)))
    if len(set(found)) < len(found):
        raise ConfigError("", "must name every method once", ",".join(found))
    return found


Numbers = Annotated[tuple[PositiveInt, ...], MinLen(1), BeforeValidator(numbers), Written("NUMBERS")]
"""Whole numbers of at least 1, ascending and different."""
AnyNumbers = Annotated[tuple[PositiveInt, ...], BeforeValidator(numbers), Written("NUMBERS")]
"""The same, or none."""
Sizes = Annotated[tuple[AtLeastTwo, ...], MinLen(1), BeforeValidator(numbers), Written("NUMBERS")]
"""The same, of at least 2."""
Seeds = Annotated[tuple[Count, ...], MinLen(1), BeforeValidator(numbers), Written("NUMBERS")]
"""The same, of at least 0."""
Words = Annotated[tuple[str, ...], BeforeValidator(listed), Written("NAMES")]
"""Names with commas between."""
Image = Annotated[tuple[int, int, int], BeforeValidator(image_shape), Written("CHANNELSxHEIGHTxWIDTH")]
"""The size of a model's images."""
Images = Annotated[
    tuple[tuple[int, int, int], ...],
    MinLen(1),
    BeforeValidator(image_shapes),
    Written("CHANNELSxHEIGHTxWIDTH,..."),
]
"""The same, several with commas between."""
Methods = Annotated[tuple[str, ...], BeforeValidator(labels), Written("NAME[,KEY=VALUE...]", many=True)]
"""Methods with commas between; a part KEY=VALUE belongs to the name before it."""
NamedMethods = Annotated[
    tuple[str, ...], BeforeValidator(labels), Written("NAME[,KEY=VALUE...]", many=True, argument=True)
]
"""The same, as the words after the command."""
