"""Where in the configuration an error's key belongs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raysim.errors import ConfigError


@contextmanager
def keys_under(group: str, **elsewhere: str) -> Iterator[None]:
    """Put the keys of ConfigErrors raised inside into their configuration group, or where `elsewhere` says."""
    try:
        yield
    except ConfigError as error:
        key = error.key if "." in error.key else elsewhere.get(error.key, f"{group}.{error.key}")
        raise ConfigError(key, error.rule, error.value, error.nearest) from None
