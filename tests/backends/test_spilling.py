"""What the owner of objects knows of those that were written to disk: asked only where memory may be short."""

from __future__ import annotations

from collections.abc import Sequence

from raysim.backends.placement import Placed
from raysim.backends.spilling import Spills, from_disk


class Disk:
    """Answers which objects were written to disk, and counts how often it is asked."""

    def __init__(self) -> None:
        self.holds: set[Placed] = set()
        self.asked = 0

    def __call__(self, placed: Sequence[Placed]) -> list[bool]:
        self.asked += 1
        return [one in self.holds for one in placed]


def placed(size: int) -> Placed:
    return Placed(object(), size, {"a"}, made=True)


def test_each_object_is_counted_once_when_it_was_written():
    disk = Disk()
    spills = Spills(disk, lambda: 100.0)
    first, second, small = placed(40), placed(20), placed(1)
    spills.watch((first, second, small))
    assert spills.look(now=True) == 0
    disk.holds = {first}
    assert spills.look(now=True) == 40
    disk.holds = {first, second}
    assert spills.look(now=True) == 20
    assert spills.look(now=True) == 0
    assert from_disk([first, 7, small, second]) == 60


def test_nobody_is_asked_while_little_is_alive():
    disk = Disk()
    spills = Spills(disk, lambda: 100.0)
    few = spills.watch((placed(20),))
    assert spills.look(now=True) == 0
    more = spills.watch((placed(20),))
    disk.holds = {*few, *more}
    assert spills.look(now=True) == 40
    del more
    disk.holds, asked = set(few), disk.asked
    assert spills.look(now=True) == 0
    assert disk.asked == asked


def test_it_is_not_asked_again_at_once_unless_that_is_wanted():
    disk = Disk()
    spills = Spills(disk, lambda: 0.0)
    kept = spills.watch((placed(1),))
    spills.look()
    spills._not_before_s = float("inf")  # as after a look that took long
    assert spills.look() == 0
    assert disk.asked == 1
    spills.look(now=True)
    assert (len(kept), disk.asked) == (1, 2)
    spills._not_before_s, spills._took_s = float("inf"), 1.0  # as of very many objects
    spills.look(now=True)
    assert disk.asked == 2
