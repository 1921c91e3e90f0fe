"""What each place has been given to do and has not answered yet.

A place takes one item after the other. It may be given its next one while it does the first: the time in which the server
hears of an answer and sends the next call is then not the place's.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raysim.backends.placement import Handle


@dataclass(frozen=True)
class Given:
    """One item at a place. references: what it will answer, told by the last; limit_s: it may take."""

    number: int
    retries: int
    place: int
    references: list[Handle]
    limit_s: float = math.inf

    @property
    def handle(self) -> Handle:
        """By which it is told whether it has ended."""
        return self.references[-1]


class Lines:
    """The lines of all places. ahead: whether a place is given a second item while it does the first.

    under_way: all that was given, in that order. due: when the first of each line that has a limit is overdue.
    """

    def __init__(self, places: int, *, ahead: bool = False) -> None:
        self.under_way: dict[Handle, Given] = {}
        self.due: dict[Handle, float] = {}
        self._lines: list[deque[Given]] = [deque() for _ in range(places)]
        self._free = deque(range(places))
        self._busy: deque[int] = deque()
        self._ahead = ahead

    def open(self, waiting: int) -> Sequence[int]:
        """The places for the next of `waiting` items: those with nothing to do, else those that do their only item.

        The last ones, as many as there are places, are not given ahead: whoever has nothing to do first takes them.
        """
        return self._free or (self._busy if waiting > len(self._lines) else ())

    def give(self, given: Given) -> None:
        """To a place that `open` told."""
        line = self._lines[given.place]
        line.append(given)
        self.under_way[given.handle] = given
        if len(line) > 1:
            self._busy.remove(given.place)
            return
        self._free.remove(given.place)
        self._begins(given)

    def answered(self, given: Given) -> None:
        """The first of its line is done."""
        line = self._lines[given.place]
        line.popleft()
        self._forget(given)
        if line:
            self._begins(line[0])
        else:
            self._stands_idle(given.place)

    def lost(self, place: int) -> tuple[Given, list[Given]]:
        """(What the place was doing, what it had been given ahead): none of it will be answered."""
        first, *others = self._lines[place]
        for given in (first, *others):
            self._forget(given)
        self._lines[place].clear()
        self._stands_idle(place)
        return first, others

    def _begins(self, given: Given) -> None:
        if given.limit_s != math.inf:
            self.due[given.handle] = time.monotonic() + given.limit_s
        if self._ahead:
            self._busy.append(given.place)

    def _stands_idle(self, place: int) -> None:
        if place in self._busy:
            self._busy.remove(place)
        self._free.append(place)

    def _forget(self, given: Given) -> None:
        del self.under_way[given.handle]
        self.due.pop(given.handle, None)
