"""Measure one cell of `raysim bench scaling`: a defense, or the limits, on a matrix that is there already."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raysim.backends.base import Backend, InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE, Span, reset_peak_memory
from raysim.matrix.updates import Updates
from raysim.runs.directory import digest
from raysim.studies.costs.subjects import Judging, Subject
from raysim.studies.limits import copy_matrix, gram_product, multiply
from raysim.studies.memory import Watch, give_back
from raysim.studies.scaling.round import RoundMatrix
from raysim.studies.stages import stage_rows, summary
from raysim.studies.table import Row

LATE = 500
"""Defenses are timed in a round after this one, past any round from which they do more."""

MOST_CLIENTS_OF_GRAM = 2000
"""Above this K the Gram limit is not taken: it would cost more than most defenses."""


@dataclass(frozen=True)
class Work:
    """What one piece of work took: its spans, and the whole of it as this process saw it."""

    spans: list[Span]
    wall_s: float
    own_cpu_s: float
    started_s: float
    inside: bool
    """Whether its tasks ran in this very process."""

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all processes."""
        elsewhere = 0.0 if self.inside else sum(s.cpu_s for s in self.spans if s.task != WHOLE_STAGE)
        return self.own_cpu_s + elsewhere


class Stopwatch:
    """`with Stopwatch(backend) as clock: ...`, then `clock.work`."""

    work: Work

    def __init__(self, backend: Backend) -> None:
        self._telemetry = backend.telemetry
        self._inside = isinstance(backend, InProcessBackend)

    def __enter__(self) -> Stopwatch:
        gc.collect()
        self._telemetry.drain()
        reset_peak_memory()
        self._started, self._cpu, self._clock = time.time(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        wall, cpu = time.perf_counter() - self._clock, time.process_time() - self._cpu
        self.work = Work(self._telemetry.drain(), wall, cpu, self._started, self._inside)


def measure_subject(
    subject: Subject, matrix: RoundMatrix, watch: Watch, *, memory: bool
) -> tuple[list[Row], list[Row], list[Span]]:
    """(Rows of stages, rows of memory, spans), without the columns that a cell's rows have in common.

    Rounds to warm up, one that is timed, and, for memory, one more that is watched. The state goes on from one to the
    next, as in a run; the global model stays where it is. What this process freed before is no part of its memory.
    """
    give_back()
    backend = matrix.context.backend
    warm_ups, timed, watched = rounds_of(subject)
    state = subject.begin(matrix)
    for number in warm_ups:
        _, state = subject.once(state, matrix, number)
    matrix.renew()
    clock = Stopwatch(backend)
    result, state = subject.once(state, matrix, timed, clock)
    stages = stages_of(clock.work, result)
    if not memory:
        return stages, [], clock.work.spans
    matrix.renew()
    with watch.memory() as found:
        subject.once(state, matrix, watched)
    backend.telemetry.drain()
    return stages, [{"node": number, **vars(node)} for number, node in enumerate(found)], clock.work.spans


def measure_limits(matrix: RoundMatrix, drawing: Work) -> list[Row]:
    """Rows of the stages `draw`, `copy`, `gram` and `products`; all but the first are warmed up first."""
    rows = [{**_whole(drawing), "stage": "draw"}]
    limits: list[tuple[str, Callable[[Updates], object]]] = [("copy", copy_matrix)]
    if matrix.updates.num_clients <= MOST_CLIENTS_OF_GRAM:
        limits.append(("gram", gram_product))
    limits.append(("products", lambda updates: multiply(updates.backend, matrix.anchors)))
    for name, limit in limits:
        limit(matrix.updates)
        matrix.renew()
        updates = matrix.updates
        with Stopwatch(matrix.context.backend) as clock:
            limit(updates)
        del updates
        rows.append({**_whole(clock.work), "stage": name})
    return [{**row, "order": number} for number, row in enumerate(rows)]


def rounds_of(subject: Subject) -> tuple[range, int, int]:
    """(Rounds to warm up, the round that is timed, the round whose memory is watched).

    A defense that votes at intervals votes in both of the latter; one that keeps a window of rounds, or has a
    burn-in, has warmed up for as long. Others warm up once.
    """
    method = subject.defense if isinstance(subject, Judging) else None
    interval = int(getattr(method, "interval", 1))
    past = max(int(getattr(method, name, 0) or 0) for name in ("window", "burn_in"))
    timed = interval * -(-(LATE + 1) // interval) - 1
    return range(max(0, timed - max(1, past + 1)), timed), timed, timed + interval


def stages_of(work: Work, result: tuple[np.ndarray, ...]) -> list[Row]:
    """See stage_rows; nothing spilled."""
    rows = stage_rows(
        work.spans, wall_s=work.wall_s, cpu_s=work.cpu_s, started_s=work.started_s, result=digest(*result)
    )
    return [{**row, "spilled_bytes": 0} for row in rows]


def _whole(work: Work) -> Row:
    """The columns of all that was done, seconds as this process saw them."""
    own = {"wall_s": work.wall_s, "cpu_s": work.cpu_s, "started_s": work.started_s, "spilled_bytes": 0}
    return {**summary(work.spans), **own}
