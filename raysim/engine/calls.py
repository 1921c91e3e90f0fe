"""How a cohort is cut into calls of client hosts: at first, and again where a host was lost time and again."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raysim.backends.base import Kept
from raysim.engine.experiment import Experiment
from raysim.matrix.row_blocks import most_rows, rows_per_block

GRACE_S = 60.0
"""Seconds beyond its clients' limits before a call is taken to hang: the start of a process, reading data."""

Calls = list[np.ndarray]
"""Ascending client ids, one array a call; all of them ascend."""


def split_cohort(cohort: np.ndarray, experiment: Experiment, workers: int, round: int = 0) -> Calls:
    """The cohort in blocks, one per host call: `clients_per_actor` ids, or as `rows_per_block` has it.

    Clients that train together are not parted: a block ends at the nearest place where none are (of two, the
    later: long calls first keep workers even).
    """
    per_actor = experiment.config.resources.clients_per_actor
    columns = experiment.setup.layout.num_columns
    if isinstance(per_actor, int):
        size = min(per_actor, most_rows(columns))
    else:
        size = rows_per_block(len(cohort), columns, workers)
    places = _between_groups(experiment, round, cohort)[::-1]
    ends = {int(places[np.abs(places - end).argmin()]) for end in range(size, len(cohort), size)}
    return np.split(cohort, sorted(ends - {0, len(cohort)}))


def limits_s(experiment: Experiment, calls: Calls) -> list[float] | None:
    """Seconds that each call may take; None: any."""
    limit = experiment.config.resources.client_timeout_s
    return None if limit is None else [GRACE_S + limit * len(members) for members in calls]


def smaller_where_lost(
    experiment: Experiment,
    round: int,
    calls: Calls,
    answers: list[Kept | None],
    ask: Callable[[Calls], list[Kept | None]],
) -> tuple[Calls, list[Kept | None]]:
    """The calls and their answers, those without one asked again in halves, down to clients that train together.

    So that whoever costs its host its life, or takes more memory than there is beside others, is alone in the end.
    """
    found = list(zip(calls, answers, strict=True))
    lost = [(members, _middle(experiment, round, members)) for members, answer in found if answer is None]
    halves = [half for members, place in lost if place for half in np.split(members, [place])]
    if not halves:
        return calls, answers
    again = smaller_where_lost(experiment, round, halves, ask(halves), ask)
    kept = [pair for pair in found if pair[1] is not None or not _middle(experiment, round, pair[0])]
    both = sorted([*kept, *zip(*again, strict=True)], key=lambda pair: int(pair[0][0]))
    return [members for members, _ in both], [answer for _, answer in both]


def _middle(experiment: Experiment, round: int, members: np.ndarray) -> int:
    """The place nearest to the middle at which these clients can be parted; 0 where they cannot."""
    inside = _between_groups(experiment, round, members)[1:-1]
    return int(inside[np.abs(inside - len(members) // 2).argmin()]) if len(inside) else 0


def _between_groups(experiment: Experiment, round: int, clients: np.ndarray) -> np.ndarray:
    """Where clients [n] can be parted: ascending places from 0 to n, between groups that train together."""
    whole = np.ones(len(clients) + 1, bool)
    for group in experiment.setup.groups(round, clients):
        whole[group[0] + 1 : group[-1] + 1] = False
    return np.flatnonzero(whole)
