"""A limit on the time that one client may take."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from raysim.errors import ConfigError

AGAIN_S = 1.0
"""Seconds from one reminder to the next, for code that swallows them."""


class OutOfTime(BaseException):
    """Raised inside of what takes too long; no Exception, so that code which catches those does not go on."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """OutOfTime inside after this many seconds; None: no limit.

    By the process's alarm clock, which Python looks at between two steps of its own: a single call into a library that
    never returns is not left. ConfigError outside of the main thread, where Python has no alarms.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        rule = "must be null if a run is started in a thread: only the main thread has an alarm clock"
        raise ConfigError("resources.client_timeout_s", rule, seconds)

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
