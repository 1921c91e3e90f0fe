"""Counts that options of `raysim bench` give."""

from __future__ import annotations

from raysim.errors import ConfigError


def at_least_one(key: str, value: int) -> None:
    """ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(key, "must be at least 1", value, 1)
