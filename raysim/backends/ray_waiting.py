"""Waiting for what runs on Ray: whatever has ended, and whatever takes too long."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ray

if TYPE_CHECKING:
    from raysim.backends.placement import Handle

ENDED_AGAIN_S = 10.0
"""Seconds from one attempt to end a host that hangs to the next."""


def all_that_ended(running: list[Handle], due: dict[Handle, float]) -> list[Handle]:
    """Those of what is running that have ended, when at least one has, or when the first is due.

    All at once: waiting looks at everything that is running, so that asked for each one a task would cost the more, the
    more there are.
    """
    first = min(due.values(), default=math.inf) - time.monotonic()
    ray.wait(running, timeout=None if first == math.inf else max(first, 0.1))
    ready, _ = ray.wait(running, num_returns=len(running), timeout=0)
    return ready


def overdue(due: dict[Handle, float]) -> list[Handle]:
    """What has run for too long, which is then given some time to end."""
    now = time.monotonic()
    late = [handle for handle, limit in due.items() if limit <= now]
    due.update(dict.fromkeys(late, now + ENDED_AGAIN_S))
    return late


def matched(
    waiting: deque[tuple[int, int]], places: Sequence[int], suits: Callable[[int, int], bool]
) -> tuple[tuple[int, int], int]:
    """The next item (its number, its retries), no longer waiting, and the place that takes it.

    The first place that an item suits, and the first such item; where none suits any, the first of each.
    """
    item, place = next(
        ((item, place) for place in places for item in waiting if suits(item[0], place)),
        (waiting[0], places[0]),
    )
    waiting.remove(item)
    return item, place
