"""Ends from outside: Ctrl-C (SIGINT) and SIGTERM as one exception, so that one path keeps what is finished.

Python raises KeyboardInterrupt for SIGINT and dies of SIGTERM at once. Inside `terminable`, SIGTERM raises `Terminated`,
which is a KeyboardInterrupt too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised in the main thread wherever that is at work."""


def status_of(end: KeyboardInterrupt) -> int:
    """The exit status that a shell expects of a process ended by this signal: 130, or 143 for SIGTERM."""
    return 128 + (signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT)


class _Answer:
    """Answers SIGTERM, and remembers it: Ray's calls that are interrupted raise KeyboardInterrupt whatever was raised."""

    received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated; afterwards it does what it did before. In other threads nothing changes."""
    before, answer = signal.getsignal(signal.SIGTERM), _Answer()
    _set(answer)
    try:
        yield
    except KeyboardInterrupt as end:
        if answer.received and not isinstance(end, Terminated):
            raise Terminated from end
        raise
    finally:
        _set(before)


@contextmanager
def terminable_still() -> Iterator[None]:
    """For code that sets an answer to SIGTERM of its own, `sys.exit`: inside `terminable`, Terminated comes all the same."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        if not isinstance(before, _Answer):
            raise
        raise Terminated from end
    finally:
        if isinstance(before, _Answer):
            _set(before)


def _set(handler: object) -> None:
    # None: set by code that is not Python's, and cannot be put back from here.
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
