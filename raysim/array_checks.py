"""Checks of arrays that users hand over."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from raysim.errors import ConfigError


def finite(key: str, values: ArrayLike, rule: str = "must be numbers") -> np.ndarray:
    """The values as float32; ConfigError if they are not numbers, or not finite in float32."""
    found = numbers(key, values, rule)
    good = np.isfinite(found)
    if not good.all():
        place = tuple(np.argwhere(~good)[0].tolist())
        raise ConfigError(key, f"must be finite in float32, and is not at {place}", float(found[place]))
    return found


def numbers(key: str, values: ArrayLike, rule: str) -> np.ndarray:
    """The values as float32; ConfigError with that rule if they are not numbers."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ConfigError(key, rule, type(values).__name__) from None


def as_array(values: object) -> np.ndarray | None:
    """The values as an array, of whatever type; None if they cannot be one."""
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with a gradient
        return None


def described(value: object) -> str:
    """A value in a few words: `int64 (2,) [5, 7]`, `list [1, 2]`, `None`."""
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    kind = type(value).__name__ if shape is None else f"{getattr(value, 'dtype', '')} {tuple(shape)}"
    text = str(value.tolist()) if isinstance(value, np.ndarray) and value.size <= 8 else ""
    if shape is None:
        text = repr(value)
    return f"{kind} {text if len(text) <= 60 else text[:57] + '...'}".strip()
