"""Where in the configuration an error belongs that is met before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from raysim.errors import ConfigError, RaysimError


@contextmanager
def keys_under(group: str, **elsewhere: str) -> Iterator[None]:
    """Put the keys of ConfigErrors raised inside into their configuration group, or where `elsewhere` says."""
    try:
        yield
    except ConfigError as error:
        key = error.key if "." in error.key else elsewhere.get(error.key, f"{group}.{error.key}")
        raise ConfigError(key, error.rule, error.value, error.nearest) from None


@contextmanager
def asked(group: str, component: object, **elsewhere: str) -> Iterator[None]:
    """`keys_under`, for what asks a component of the configuration: whatever else it fails with is a ConfigError, too."""
    with keys_under(group, **elsewhere):
        try:
            yield
        except (RaysimError, OSError):
            raise
        except (Exception, SystemExit) as error:
            rule = f"must name what can be set up; it fails with {type(error).__name__}: {error}"
            raise ConfigError(f"{group}.name", rule, type(component).__name__) from error


def numbered(group: str, items: Sequence[object], number: int) -> str:
    """The dotted key of one of a group's items: with its number only if there are several."""
    return group if len(items) == 1 else f"{group}.{number}"
