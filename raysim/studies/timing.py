"""Wall-clock seconds of a call, and of a block."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class Clock:
    """`with Clock() as clock: ...`, then `clock.seconds` of the wall clock."""

    seconds = float("nan")

    def __enter__(self) -> Clock:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start


def seconds(fn: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> float:
    """Wall-clock seconds of one call."""
    start = time.perf_counter()
    fn(*args, **kwargs)
    return time.perf_counter() - start
