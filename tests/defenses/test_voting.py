"""Votes over rounds, by hand: clients come and go, rounds are left out, bans last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defenses.voting import ABSENT, no_suspicions, remember, vote

ROUNDS = {  # round: {client: suspected}
    1: {1: True, 2: False, 4: True},
    2: {1: True, 2: True, 3: True},
    3: {2: True, 3: False, 4: True},
    4: {3: True, 5: False},
    5: {1: False, 2: False, 3: False, 4: False, 5: True},
    6: {1: False, 2: True, 3: True, 4: False, 5: False},
}


def play(last: int, without: tuple[int, ...] = (), **options: Any) -> tuple[list[list[int]], dict]:
    """(ids judged malicious in each round played, the memory after it)."""
    memory, judged = no_suspicions(), []
    for number in sorted(set(range(1, last + 1)) - set(without)):
        ids, suspects = np.array([*ROUNDS[number]]), np.array([*ROUNDS[number].values()])
        malicious, memory = vote(memory, number, ids, suspects, **options)
        judged.append(ids[malicious].tolist())
    return judged, memory


def test_memory_after_three_rounds() -> None:
    _, memory = play(3, interval=3, votes=2)
    assert memory["rounds"].tolist() == [1, 2, 3]
    assert memory["client_ids"].tolist() == [1, 2, 3, 4]
    assert memory["suspected"].tolist() == [
        [1, 0, ABSENT, 1],
        [1, 1, 1, ABSENT],
        [ABSENT, 1, 0, 1],
    ]


def test_a_vote_every_third_round_with_sampling() -> None:
    judged, _ = play(6, interval=3, votes=2)
    assert judged == [
        [1, 4],  # this round's suspects
        [1, 2, 3],
        [2, 4],  # of those here 2 and 4 twice, 3 once; client 1, twice too, is not here
        [3],
        [5],
        [3],  # rounds 4 to 6: 3 twice; 2 and 5 once
    ]


@pytest.mark.parametrize(
    ("votes", "third", "sixth"), [(1, [2, 3, 4], [2, 3, 5]), (2, [2, 4], [3]), (3, [], [])]
)
def test_how_often_is_often(votes: int, third: list[int], sixth: list[int]) -> None:
    judged, _ = play(6, interval=3, votes=votes)
    assert (judged[2], judged[5]) == (third, sixth)


def test_an_interval_of_one_is_this_round_alone() -> None:
    judged, memory = play(4, interval=1, votes=1)
    assert judged == [[1, 4], [1, 2, 3], [2, 4], [3]]
    assert memory["client_ids"].tolist() == [3, 5]


def test_a_ban_lasts_and_reaches_who_is_not_here() -> None:
    judged, memory = play(6, interval=3, votes=2, permanent=True)
    # Round 3 bans 1, 2 and 4; client 1 was not there. Round 6 bans 3 too.
    assert judged == [[1, 4], [1, 2, 3], [2, 4], [3], [1, 2, 4, 5], [1, 2, 3, 4]]
    assert memory["banned"].tolist() == [1, 2, 3, 4]
    assert play(6, interval=3, votes=2)[1]["banned"].tolist() == []


def test_a_round_left_out_still_passes() -> None:
    # Rounds 1, 2 and 6 with an interval of 3: at 6, rounds 1 and 2 are too old.
    judged, memory = play(6, without=(3, 4, 5), interval=3, votes=2)
    assert judged[-1] == []
    assert memory["rounds"].tolist() == [6]


def test_nothing_given_is_changed() -> None:
    _, before = play(2, interval=3, votes=2)
    copies = {key: value.copy() for key, value in before.items()}
    ids, suspects = np.array([1, 9]), np.array([True, False])
    vote(before, 3, ids, suspects, interval=3, votes=1, permanent=True)
    assert all(np.array_equal(before[key], copies[key]) for key in copies)
    assert suspects.tolist() == [True, False]


def test_types_do_not_change() -> None:
    one = remember(no_suspicions(), 1, np.array([4], np.int32), np.array([True]), 3)
    for memory in (no_suspicions(), one, play(6, interval=3, votes=2, permanent=True)[1]):
        types = [memory[key].dtype for key in ("rounds", "client_ids", "suspected", "banned")]
        assert types == [np.int64, np.int64, np.int8, np.int64]
