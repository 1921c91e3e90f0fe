"""Checks of arrays that users hand over."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from raysim.errors import ConfigError


def finite(key: str, values: ArrayLike, rule: str = "must be numbers") -> np.ndarray:
    """The values as float32; ConfigError where they are no numbers, or not finite in float32."""
    found = numbers(key, values, rule)
    good = np.isfinite(found)
    if not good.all():
        place = tuple(np.argwhere(~good)[0].tolist())
        raise ConfigError(key, f"must be finite in float32, and is not at {place}", float(found[place]))
    return found


def numbers(key: str, values: ArrayLike, rule: str) -> np.ndarray:
    """The values as float32; ConfigError with that rule where they are no numbers."""
    try:
        with np.errstate(over="ignore"):
            return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ConfigError(key, rule, type(values).__name__) from None
