"""What object stores have written to disk for want of memory, as the owner of the objects can tell.

Ray remembers of every object whether it was ever written to disk. That is asked only where what is alive takes a good part of
the stores, and not more often than costs little.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Sequence

from raysim.backends.placement import Placed

CROWDED = 0.25
"""Share of all object stores from which on objects may be written to disk: one node's may be full before the others'."""

MOST_OF_THE_TIME = 0.02
"""Asking takes at most this share of a stage's time."""

SHORT_S = 0.05
"""What took no longer may be asked again at the end of every stage."""


class Spills:
    """The objects of one owner. ask: whether each of some was written to disk; store_bytes: of all object stores together."""

    def __init__(
        self, ask: Callable[[Sequence[Placed]], Sequence[bool]], store_bytes: Callable[[], float]
    ) -> None:
        self._ask, self._store_bytes = ask, store_bytes
        self._alive: weakref.WeakSet[Placed] = weakref.WeakSet()
        self._added = 0
        self._limit: float | None = None
        self._not_before_s = self._took_s = 0.0

    def watch(self, made: tuple[Placed, ...]) -> tuple[Placed, ...]:
        """These, which are alive from now on, until nobody refers to them."""
        self._alive.update(made)
        self._added += sum(placed.size for placed in made)
        return made

    def look(self, *, now: bool = False) -> int:
        """Bytes written to disk since the last look, of what is alive. now: even if that was not long ago, if it takes SHORT_S."""
        if self._limit is None and self._added:
            self._limit = CROWDED * self._store_bytes()
        if self._limit is None or self._added <= self._limit:
            return 0  # all that there ever was is little
        began = time.perf_counter()
        if began < self._not_before_s and not (now and self._took_s <= SHORT_S):
            return 0
        alive = list(self._alive)
        self._added = sum(placed.size for placed in alive)
        if self._added <= self._limit:
            return 0
        kept = [placed for placed in alive if not placed.spilled]
        found = [placed for placed, gone in zip(kept, self._ask(kept), strict=True) if gone]
        for placed in found:
            placed.spilled = True
        self._took_s = time.perf_counter() - began
        self._not_before_s = began + self._took_s + self._took_s / MOST_OF_THE_TIME
        return sum(placed.size for placed in found)


def from_disk(arguments: Sequence[object]) -> int:
    """Bytes of a task's arguments that were written to disk before it was begun; a copy may be in memory still."""
    return sum(a.size for a in arguments if isinstance(a, Placed) and a.spilled)
