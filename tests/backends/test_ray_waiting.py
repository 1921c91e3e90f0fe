"""Waiting on Ray: all that has ended is told at once, and what takes too long again and again."""

from __future__ import annotations

import time
from typing import Any

import pytest

pytestmark = pytest.mark.ray


def test_all_that_ended_is_told_at_once(ray_cluster: None) -> None:
    import ray

    from raysim.backends.ray_waiting import all_that_ended

    there: list[Any] = [ray.put(number) for number in range(5)]
    assert all_that_ended(there, {}) == there
    assert all_that_ended(there, dict.fromkeys(there, time.monotonic() - 1)) == there


def test_what_is_due_is_told_and_given_more_time() -> None:
    from raysim.backends.ray_waiting import ENDED_AGAIN_S, overdue

    now = time.monotonic()
    due: dict[Any, float] = {"late": now - 1, "later": now + 3600, "never": float("inf")}
    assert overdue(due) == ["late"]
    assert due["late"] >= now + ENDED_AGAIN_S
    assert overdue(due) == []
    assert due["later"] == now + 3600


def test_a_free_place_takes_what_suits_it_and_else_what_comes_first() -> None:
    from collections import deque

    from raysim.backends.ray_waiting import matched

    waiting = deque([(0, 0), (1, 2), (2, 0)])

    def suits(item: int, place: int) -> bool:
        return (item, place) in {(1, 8), (2, 8)}

    assert matched(waiting, [7, 8], suits) == ((1, 2), 8)
    assert list(waiting) == [(0, 0), (2, 0)]
    assert matched(waiting, [7], suits) == ((0, 0), 7)
