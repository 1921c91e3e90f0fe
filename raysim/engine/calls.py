"""How a cohort is cut into calls of client hosts: at first, and again where a host was lost time and again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np

from raysim.backends.base import Kept
from raysim.engine.experiment import Experiment
from raysim.matrix.row_blocks import most_rows, rows_per_block

GRACE_S = 60.0
"""Seconds beyond its clients' limits before a call is taken to hang: the start of a process, reading data."""

ROWS_OF_LIGHT = 2
"""A block of clients with little work has at most so many times its share of rows: detection takes rows, not examples."""

Calls = list[np.ndarray]
"""Ascending client ids, one array a call; all of them ascend."""


def split_cohort(cohort: np.ndarray, experiment: Experiment, workers: int, round: int = 0) -> Calls:
    """The cohort in blocks, one per host call: `clients_per_actor` ids, or as many blocks as `rows_per_block` has, of nearly
    equal work, with at most ROWS_OF_LIGHT times their even share of rows.

    Clients that train together are not parted: a block ends at the nearest place where none are (of two, the
    later: long calls first keep workers even).
    """
    per_actor = experiment.config.resources.clients_per_actor
    columns = experiment.setup.layout.num_columns
    places = _between_groups(experiment, round, cohort)[::-1]
    if isinstance(per_actor, int):
        size = most = min(per_actor, most_rows(columns))
        ends = _nearest(places, range(size, len(cohort), size))
    else:
        size = rows_per_block(len(cohort), columns, workers)
        most = min(ROWS_OF_LIGHT * size, most_rows(columns))
        done = np.concatenate([[0], np.cumsum(work_of(experiment, cohort))])[places]
        begun, chosen = 0.0, [0]
        for left in range(-(-len(cohort) // size), 1, -1):  # an equal part of what is left, after each block
            place = np.abs(done - begun - (done[0] - begun) / left).argmin()
            begun = done[place]
            chosen.append(places[place])
        ends = np.array(chosen)
    ends = np.unique([0, *ends, len(cohort)])
    fuller = [_nearest(places, range(first + most, last, most)) for first, last in pairwise(ends.tolist())]
    ends = np.unique(np.concatenate([ends, *fuller]))
    return np.split(cohort, ends[1:-1].astype(int))


def work_of(experiment: Experiment, clients: np.ndarray) -> np.ndarray:
    """How much work the clients' training is, predicted [n]: batches of all epochs; 1 each where updates are drawn.

    Those of an attacker count as an honest client's, whatever its attack does besides.
    """
    setup = experiment.setup
    if setup.synthetic is not None:
        return np.ones(len(clients))
    batches: np.ndarray = np.ceil(experiment.sizes[clients] / setup.recipe.batch_size)
    return setup.recipe.epochs * batches


def _nearest(places: np.ndarray, wanted: Iterable[int]) -> np.ndarray:
    """Of descending places, the nearest to each that is wanted; the later of two."""
    return np.array([places[np.abs(places - place).argmin()] for place in wanted], int)


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
