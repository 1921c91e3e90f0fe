"""What detection will take on clusters of 1 to 64 nodes: the defense measured here, on drawn rows, and foretold by over_nodes.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.composition.over_nodes import READS, Nodes, OneNode, Rows, detection_s, tasks_of
from raysim.defense import judged
from raysim.engine.calls import split_cohort
from raysim.engine.experiment import Experiment, RunState, round_context
from raysim.engine.synthetic_updates import synthetic_updates
from raysim.errors import RaysimError
from raysim.formats import seconds

NODES = (1, 2, 4, 8, 16, 32, 64)
CORES = 16
RATES = (10e9, 25e9)
"""Nodes, cores of each, bits a second of their links."""

MEASURED_BYTES = 2**28
"""Of rows that the defense is measured on, at most: it is foretold from fewer clients where a cohort's take more."""

STEEPEST = 2.0
"""No stage is taken to grow faster than as this power of K: pairs are the most that defenses look at."""

TASK_S, COLUMN_TASK_S = 0.8e-3, 2.9e-3
"""The server's processor time for one task, and for one of a sum or a column shard, as `raysim bench tasks` measured it."""


@dataclass(frozen=True)
class Stage:
    """A stage as one core does it, for so many clients. tasks: of its own, with the rows in two blocks."""

    name: str
    wall_s: float
    busy_s: float
    tasks: int

    def grown(self, fewer: Stage, factor: float) -> Stage:
        """For `factor` times as many clients, by the power of K that half as many, `fewer`, tell."""
        steps = (self.wall_s, fewer.wall_s)
        power = min(max(math.log2(steps[0] / steps[1]), 0.0), STEEPEST) if min(steps) > 0 else 1.0
        return Stage(self.name, self.wall_s * factor**power, self.busy_s * factor**power, self.tasks)


@dataclass(frozen=True)
class Foretold:
    """Seconds of a round's detection, by (nodes, bits a second), and the number of clients it was measured with."""

    seconds: dict[tuple[int, float], float]
    measured_clients: int


def foretold(experiment: Experiment) -> Foretold:
    """For the experiment's cohort and model on NODES of CORES each. RaysimError where the defense cannot judge drawn rows."""
    cohort, columns = experiment.config.population.cohort_size, experiment.setup.layout.num_columns
    few = min(cohort, max(8, MEASURED_BYTES // (4 * columns)))
    stages = measured(experiment, few)
    if few < cohort:
        fewer = {stage.name: stage for stage in measured(experiment, max(4, few // 2))}
        stages = [stage.grown(fewer.get(stage.name, stage), cohort / few) for stage in stages]
    found = {
        (nodes, rate): detection_on(experiment, stages, nodes, rate) for nodes in NODES for rate in RATES
    }
    return Foretold(found, few)


def detection_on(experiment: Experiment, stages: Sequence[Stage], nodes: int, rate: float) -> float:
    """Seconds on so many nodes: those of the model, and the server's own for the tasks that are begun."""
    setup, cohort = experiment.setup, experiment.config.population.cohort_size
    workers = max(1, nodes * CORES // experiment.config.resources.threads)
    blocks = len(split_cohort(np.arange(cohort), experiment, workers))
    rows = Rows(cohort, setup.layout.dim, max(1, len(setup.bounds) - 1), blocks)
    on = Nodes(nodes, workers, rate, cores=nodes * CORES)
    cut, server_s = list[tuple[OneNode, int]](), 0.0
    for stage in stages:
        tasks = stage.tasks if stage.tasks < 2 else tasks_of(stage.name, rows, on)
        server_s += tasks * (COLUMN_TASK_S if stage.name in READS else TASK_S)
        # What one process does beside its tasks does not grow with their number.
        cut.append((OneNode(stage.name, stage.wall_s, stage.busy_s, 1, tasks), tasks))
    return server_s + detection_s(cut, rows, on)


def measured(experiment: Experiment, clients: int) -> list[Stage]:
    """The defense's stages in one round with so many clients, warmed up by another, in this process."""
    backend = InProcessBackend(threads=experiment.config.resources.threads)
    setup = experiment.setup
    updates, _ = synthetic_updates(
        backend,
        setup.layout,
        clients,
        seed=experiment.config.seed,
        bounds=setup.bounds,
        rows_per_block=-(-clients // 2),
    )
    state = RunState(0, experiment.initial, None, {}, ())
    context = round_context(experiment, backend, state, backend.put(experiment.initial), "defense")
    memory = experiment.defense.init(context)
    _, memory = judged(experiment.defense, memory, updates, context)
    backend.telemetry.drain()
    with backend.telemetry.owned("defense", rest="(between stages)"):
        judged(experiment.defense, memory, updates, context)
    spans = backend.telemetry.drain()
    found = []
    for name in dict.fromkeys(span.stage for span in spans):
        whole = sum(span.wall_s for span in spans if (span.stage, span.task == WHOLE_STAGE) == (name, True))
        tasks = [span.wall_s for span in spans if (span.stage, span.task == WHOLE_STAGE) == (name, False)]
        found.append(Stage(name, whole, sum(tasks), len(tasks)))
    return found


def rows(experiment: Experiment) -> tuple[list[list[str]], str]:
    """([nodes, a column for each of RATES], what must be known of them); no row where it cannot be foretold."""
    cohort = experiment.config.population.cohort_size
    try:
        told = foretold(experiment)
    except RaysimError as error:
        return [], f"detection was not foretold: {error}"
    lines = [[str(nodes), *(seconds(told.seconds[nodes, rate]) for rate in RATES)] for nodes in NODES]
    from_fewer = (
        f", measured with {told.measured_clients} of {cohort} clients"
        if told.measured_clients < cohort
        else ""
    )
    return lines, f"a round's detection, foretold from one core of this machine{from_fewer}"
