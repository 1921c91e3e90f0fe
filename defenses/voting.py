"""A vote over rounds: who was suspected often enough to be judged malicious (LayerCAM-AE, eq. 17).

The memory is a table [rounds, clients] of suspicions with 1 = suspected, 0 = not, -1 = was not there: that client
abstains from that round. Rounds count from 1, as in the paper.
"""

from __future__ import annotations

import numpy as np

from raysim.context import State

ABSENT = -1


def no_suspicions() -> State:
    """The memory before round 1.

    rounds [r] int64, client_ids [n] int64 sorted, suspected [r, n] int8, banned [m] int64 sorted.
    """
    return {
        "rounds": np.zeros(0, np.int64),
        "client_ids": np.zeros(0, np.int64),
        "suspected": np.zeros((0, 0), np.int8),
        "banned": np.zeros(0, np.int64),
    }


def vote(
    memory: State,
    number: int,
    client_ids: np.ndarray,
    suspects: np.ndarray,
    *,
    interval: int,
    votes: int,
    permanent: bool = False,
) -> tuple[np.ndarray, State]:
    """(judged malicious [K] bool, new memory) of round `number` from its suspects [K] bool among client_ids [K].

    Where `interval` divides the number: those suspected in at least `votes` of the last `interval` rounds, this
    one included. Otherwise: this round's suspects. permanent: whom a vote finds malicious, present or not, is
    malicious ever after.

    >>> ids, memory = np.array([3, 5]), no_suspicions()
    >>> first, memory = vote(memory, 1, ids, np.array([True, True]), interval=2, votes=2)
    >>> second, memory = vote(memory, 2, ids, np.array([False, True]), interval=2, votes=2)
    >>> first.tolist(), second.tolist()
    ([True, True], [False, True])
    """
    memory = remember(memory, number, client_ids, suspects, interval)
    malicious, banned = client_ids[suspects], memory["banned"]
    if number % interval == 0:
        counts = (memory["suspected"] == 1).sum(axis=0)
        malicious = memory["client_ids"][counts >= votes]
        if permanent:
            banned = np.union1d(banned, malicious)
    return np.isin(client_ids, np.union1d(malicious, banned)), {**memory, "banned": banned}


def remember(
    memory: State, number: int, client_ids: np.ndarray, suspects: np.ndarray, interval: int
) -> State:
    """The memory with round `number`, without the rounds up to number - interval and clients seen in no other."""
    recent = memory["rounds"] > number - interval
    everyone = np.union1d(memory["client_ids"], client_ids)
    table = np.full((int(recent.sum()) + 1, len(everyone)), ABSENT, np.int8)
    table[:-1, np.searchsorted(everyone, memory["client_ids"])] = memory["suspected"][recent]
    table[-1, np.searchsorted(everyone, client_ids)] = suspects
    known = (table != ABSENT).any(axis=0)
    return {
        "rounds": np.append(memory["rounds"][recent], number).astype(np.int64),
        "client_ids": everyone[known].astype(np.int64),
        "suspected": table[:, known],
        "banned": memory["banned"],
    }
