"""How a cohort is cut into calls of client hosts: at first, and again where a host was lost time and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from raysim.backends.base import Kept
from raysim.engine.experiment import Experiment
from raysim.matrix.row_blocks import most_rows, rows_per_block
from raysim.matrix.stacking import FEW

GRACE_S = 60.0
"""Seconds beyond its clients' limits before a call is taken to hang: the start of a process, reading data."""

ROWS_OF_LIGHT = 2
"""A block of clients with little work has at most so many times its share of rows: detection takes rows, not examples."""

SMALLEST = 8
"""No block is meant to have less than one part in so many of a worker's even part of the work: calls cost, too."""

FIRST = 4
"""No block of rows that are brought together over nodes has more than one of so many parts of a worker's: until the first lands, the
network is idle."""

LANDING_BYTES = 2**25
"""Of the last blocks of rows that are brought together over nodes while others are made: what lands last is waited for, and half of
this takes an eighth of a second of a link of 1 Gbit/s."""

Calls = list[np.ndarray]
"""Ascending client ids, one array a call."""


def split_cohort(
    cohort: np.ndarray, experiment: Experiment, workers: int, round: int = 0, *, crossing: bool = False
) -> Calls:
    """The cohort in blocks, one per host call, clients with most work in the first; those that train together are not parted.

    A block has `clients_per_actor` ids, as nearly as groups go. `auto`: half a worker's even part of the work that is
    left, so that long calls come first and short ones fill the end (guided self-scheduling, Polychronopoulos and Kuck
    1987), in at most ROWS_OF_LIGHT times the rows that `rows_per_block` says. crossing: they are brought together over
    nodes as they land, so the first blocks have a part of a worker's rows (FIRST), and the last ones LANDING_BYTES, if that is less than
    they have otherwise, or one of FEW parts of all rows. If nodes hold different samples, a block's groups lie on one node, or most of each.
    """
    groups, work = _groups(experiment, round, cohort)
    if experiment.homes is None:
        return _cut(experiment, groups, work, len(cohort), workers, crossing)
    lie = [experiment.homes.most(group) for group in groups]
    calls: Calls = []
    for home in sorted(set(lie)):
        mine = [number for number, name in enumerate(lie) if name == home]
        parts = [groups[number] for number in mine], [work[number] for number in mine]
        calls += _cut(experiment, *parts, len(cohort), max(1, workers // len(set(lie))), crossing)
    return calls


def _cut(
    experiment: Experiment,
    groups: list[np.ndarray],
    work: list[float],
    cohort: int,
    workers: int,
    crossing: bool,
) -> Calls:
    """The groups in blocks for so many workers."""
    per_actor, columns = experiment.config.resources.clients_per_actor, experiment.setup.layout.num_columns
    if isinstance(per_actor, int):
        sizes = [len(group) for group in groups]
        return list(_blocks(groups, sizes, min(per_actor, most_rows(columns)), lambda left: per_actor))
    most = min(ROWS_OF_LIGHT * rows_per_block(cohort, columns, workers), most_rows(columns))
    least = sum(work) / workers / SMALLEST
    if crossing:
        most = min(most, -(-cohort // (FIRST * workers)))
        last = max(1, LANDING_BYTES // (4 * columns), -(-cohort // FEW))
        least = min(least, last * sum(work) / sum(map(len, groups)))
    return list(_blocks(groups, work, most, lambda left: max(left / workers / 2, least)))


def work_of(experiment: Experiment, round: int, clients: np.ndarray) -> float:
    """How much work it is to train these clients, predicted: the steps that all groups take, one after the other.

    Those of an attacker count as an honest client's, whatever its attack does besides.
    """
    return sum(_groups(experiment, round, clients)[1])


def near(experiment: Experiment, calls: Calls) -> list[str]:
    """The node where most of each call's samples lie; empty: they lie everywhere."""
    return [] if experiment.homes is None else [experiment.homes.most(members) for members in calls]


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
    halves, kept = [], []
    for members, answer in zip(calls, answers, strict=True):
        groups = _groups(experiment, round, members)[0] if answer is None else []
        if len(groups) > 1:
            middle = len(groups) // 2
            halves += [_together(groups[:middle]), _together(groups[middle:])]
        else:
            kept.append((members, answer))
    if not halves:
        return calls, answers
    again = smaller_where_lost(experiment, round, halves, ask(halves), ask)
    kept += zip(*again, strict=True)
    return [members for members, _ in kept], [answer for _, answer in kept]


def _groups(experiment: Experiment, round: int, clients: np.ndarray) -> tuple[list[np.ndarray], list[float]]:
    """The ids of those that train together, and the steps that they take: those of the longest.

    Groups with most steps first; of equal ones, those with lower ids.
    """
    setup, sizes = experiment.setup, experiment.sizes[clients]
    steps = setup.steps(sizes).tolist()
    groups = setup.groups(round, clients, sizes)
    longest = [max(steps[place] for place in group.tolist()) for group in groups]
    order = sorted(range(len(groups)), key=lambda number: (-longest[number], int(groups[number][0])))
    return [clients[groups[number]] for number in order], [longest[number] for number in order]


def _blocks(
    groups: Sequence[np.ndarray], work: Sequence[float], most: int, wanted: Callable[[float], float]
) -> Iterator[np.ndarray]:
    """The groups in blocks, each of as nearly `wanted(the work left)` as groups go, of at most `most` rows if of several.

    Of two ends that are equally near, the later.
    """
    done = np.cumsum([0, *work])
    rows = np.cumsum([0, *map(len, groups)])
    begin = 0
    while begin < len(groups):
        aim = done[begin] + wanted(done[-1] - done[begin])
        end = min(int(np.searchsorted(done, aim)), len(groups))
        if done[end] - aim > aim - done[end - 1]:
            end -= 1
        full = int(np.searchsorted(rows, rows[begin] + most, "right")) - 1
        end = max(begin + 1, min(end, full))
        yield _together(groups[begin:end])
        begin = end


def _together(groups: Sequence[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(groups))
