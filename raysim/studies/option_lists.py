"""What the options of `raysim bench` say: numbers with commas between, and counts."""

from __future__ import annotations

from typing import Any

from raysim.config.yaml_text import values_in
from raysim.errors import ConfigError


def whole_numbers(key: str, text: str, least: int = 1) -> tuple[int, ...]:
    """`50,100` as (50, 100): ascending and different, each `least` or more; ConfigError otherwise.

    >>> whole_numbers("clients", "50, 1_000")
    (50, 1000)
    """
    words = [word.strip().replace("_", "") for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ConfigError(key, "must be whole numbers with commas between", text)
    numbers = tuple(map(int, words))
    if min(numbers) < least:
        raise ConfigError(key, f"must be at least {least} each", text, least)
    if list(numbers) != sorted(set(numbers)):
        wanted = ",".join(map(str, sorted(set(numbers))))
        raise ConfigError(key, "must ascend without repeats", text, wanted)
    return numbers


def named_options(kind: str, word: str) -> tuple[str, dict[str, Any]]:
    """`name,key=value,...` as (name, options), values read as YAML; ConfigError under `kind` for another form.

    >>> named_options("defense", "pdrr,rule=median,q=0.9")
    ('pdrr', {'rule': 'median', 'q': 0.9})
    """
    name, *pairs = word.split(",")
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(kind, "must have the form name,key=value,...", word)
        values[key] = values_in(value, f"{kind}.{key}")
    return name, values


def at_least_one(key: str, value: int) -> None:
    """ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(key, "must be at least 1", value, 1)
