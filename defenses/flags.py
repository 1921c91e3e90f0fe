"""Which clients a ranking removes, and how many a rule assumes to be malicious."""

from __future__ import annotations

import numpy as np

from raysim.context import Setting
from raysim.errors import ConfigError


def highest(count: int, scores: np.ndarray, *tie_breakers: np.ndarray) -> np.ndarray:
    """Mask [K] of the `count` highest scores; ties by the next array's higher value, then the lowest index."""
    keys = (-np.asarray(key, np.float64) for key in (*reversed(tie_breakers), scores))
    flagged = np.zeros(len(scores), bool)
    flagged[np.lexsort((np.arange(len(scores)), *keys))[:count]] = True
    return flagged


def assumed_malicious(num_byzantine: int | None, num_clients: int) -> int:
    """How many of K clients a rule removes: num_byzantine, (K - 1) // 2 if it is None, at most K - 1."""
    return min((num_clients - 1) // 2 if num_byzantine is None else num_byzantine, num_clients - 1)


def check_some_remain(num_byzantine: int | None, setting: Setting) -> None:
    """Refuse to remove every client of a cohort."""
    if num_byzantine is not None and num_byzantine >= setting.cohort:
        rule = f"must be smaller than the cohort ({setting.cohort}): at least one client has to remain"
        raise ConfigError("num_byzantine", rule, num_byzantine, setting.cohort - 1)
