"""What places have been given: next items ahead, limits of what is under way, and what is lost with a place."""

from __future__ import annotations

import math
from typing import Any

from raysim.backends.ray_lines import Given, Lines


def given(number: int, place: int, limit_s: float = math.inf) -> Given:
    handles: list[Any] = [f"kept {number}", f"about {number}"]
    return Given(number, 0, place, handles, limit_s)


def dealt(lines: Lines, waiting: int) -> list[int]:
    """The places that take items until none is open."""
    found: list[int] = []
    while waiting and (places := lines.open(waiting)):
        found.append(places[0])
        lines.give(given(len(found) - 1, found[-1]))
        waiting -= 1
    return found


def test_a_place_does_one_item_at_a_time():
    lines = Lines(2)
    assert dealt(lines, 5) == [0, 1]
    lines.answered(lines.under_way["about 1"])
    assert list(lines.open(3)) == [1]


def test_places_are_given_one_item_ahead_and_the_last_items_go_to_whoever_is_free():
    lines = Lines(2, ahead=True)
    assert dealt(lines, 6) == [0, 1, 0, 1]
    lines.answered(lines.under_way["about 0"])
    assert not lines.open(2)
    assert list(lines.open(3)) == [0]
    lines.answered(lines.under_way["about 2"])
    assert list(lines.open(2)) == [0]


def test_few_items_are_not_given_ahead():
    assert dealt(Lines(3, ahead=True), 5) == [0, 1, 2]


def test_what_is_given_ahead_is_due_from_when_it_begins():
    lines = Lines(1, ahead=True)
    first, second = given(0, 0, limit_s=5.0), given(1, 0, limit_s=9.0)
    lines.give(first)
    lines.give(second)
    assert list(lines.due) == [first.handle]
    lines.answered(first)
    assert list(lines.due) == [second.handle]
    lines.answered(second)
    assert not lines.due
    assert not lines.under_way


def test_what_a_place_had_been_given_ahead_is_lost_with_it_and_told_apart():
    lines = Lines(2, ahead=True)
    for number, place in enumerate((0, 1, 0)):
        lines.give(given(number, place, limit_s=1.0))
    blamed, innocent = lines.lost(0)
    assert (blamed.number, [other.number for other in innocent]) == (0, [2])
    assert list(lines.under_way) == list(lines.due) == ["about 1"]
    assert list(lines.open(9)) == [0]
