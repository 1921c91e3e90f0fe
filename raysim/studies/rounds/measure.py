"""`raysim bench rounds`: what a simulated round costs beside the bare training it contains."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raysim.backends.base import Backend, InProcessBackend, ThreadLimit
from raysim.backends.capacity import Capacity
from raysim.backends.telemetry import Span
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost
from raysim.engine.simulation import initial_state, rounds, start
from raysim.runs.directory import RunDirectory
from raysim.runs.execution import Keeper
from raysim.studies.rounds.bare_loop import BareLoop
from raysim.studies.rounds.cases import WARM_UP
from raysim.studies.rounds.neighbour import busy_neighbour


@dataclass(frozen=True)
class RoundTimes:
    """Seconds of each repeat [repeats]: the bare loop in one process, with one thread and with as many as there are
    workers, and the simulator's whole round.
    """

    bare_s: np.ndarray
    threaded_s: np.ndarray
    simulated_s: np.ndarray
    workers: int
    stages: dict[str, float]
    """Mean seconds a round of every stage, as the server saw it."""
    idle: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Share of the workers' time in training in which they had nothing to do [repeats]: see `idle_share`."""
    idle_by_worker: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    """The same of each worker [repeats, workers]."""

    @property
    def ratios(self) -> np.ndarray:
        """Simulated time over the ideal (bare time / workers), pair by pair [repeats]."""
        return self.simulated_s / (self.bare_s / self.workers)

    @property
    def sequential_s(self) -> np.ndarray:
        """The bare loop on as many cores as there are workers: with the number of threads that is faster."""
        return min(self.bare_s, self.threaded_s, key=lambda seconds: float(np.median(seconds)))

    @property
    def speed_ups(self) -> np.ndarray:
        """The bare loop on the same cores over the simulated time, pair by pair [repeats]."""
        ratios: np.ndarray = self.sequential_s / self.simulated_s
        return ratios


def measure(
    config: ExperimentConfig, repeats: int, workers: int, *, on_ray: bool, uneven: bool = False
) -> RoundTimes:
    """Warm up, then time the bare loop, the same with `workers` threads, and a simulated round in turn, `repeats` times.

    The simulated round is the engine's own: broadcast, training, upload, Krum, evaluation, telemetry, tables
    and a checkpoint on disk. config.rounds must be at least WARM_UP + repeats. uneven: see `busy_neighbour`.
    """
    if not on_ray:
        backend: Backend = InProcessBackend(threads=config.resources.threads)
        return _measure(compose(config, Capacity()), backend, repeats, 1)
    from raysim.backends import ray_connection as ray_cluster

    with ray_cluster.connected(num_cpus=workers):
        from raysim.backends.ray_backend import RayBackend
        from raysim.composition.resources import client_actors

        capacity = ray_cluster.capacity()
        experiment = compose(config, capacity)
        ray_backend = RayBackend(
            client_actors(experiment.config, capacity),
            workers=workers,
            threads=config.resources.threads,
            device=experiment.setup.device,
        )
        try:
            return _measure(experiment, ray_backend, repeats, workers, uneven=uneven)
        finally:
            ray_backend.close()


def _measure(
    experiment: Experiment, backend: Backend, repeats: int, workers: int, *, uneven: bool = False
) -> RoundTimes:
    clients = np.arange(len(experiment.sizes))
    limit, all_cores = ThreadLimit(experiment.config.resources.threads), ThreadLimit(workers)
    bare = BareLoop(experiment.setup, ClientHost(experiment.setup, *experiment.arrays), clients)
    held = experiment.published(backend)
    start(held, backend)
    bare_s: list[float] = []
    threaded_s: list[float] = []
    simulated_s: list[float] = []
    spans: list[Span] = []
    idle: list[float] = []
    by_worker: list[list[float]] = []
    hosts = [place["pid"] for place in backend.client_places()]
    beside = busy_neighbour(hosts) if uneven else nullcontext()
    with tempfile.TemporaryDirectory() as folder, limit(), beside:
        keeper = Keeper(held, backend, RunDirectory(Path(folder)))
        simulation = rounds(held, backend, initial_state(held, backend))
        for repeat in range(WARM_UP + repeats):
            if workers > 1:
                with all_cores():
                    threaded_s.append(_seconds(bare.round))
            bare_s.append(_seconds(bare.round))
            began = time.perf_counter()
            state, record = next(simulation)
            keeper.keep(state, record)
            simulated_s.append(time.perf_counter() - began)
            if repeat >= WARM_UP:
                spans.extend(span for span in record.spans if span.task < 0)
                idle.append(idle_share(record.spans, workers))
                by_worker.append([idle_share(record.spans, 1, host) for host in hosts])
    alone, threaded, simulated = (
        np.array(seconds[WARM_UP:]) for seconds in (bare_s, threaded_s or bare_s, simulated_s)
    )
    stages = {
        name: sum(s.wall_s for s in spans if s.stage == name) / repeats
        for name in dict.fromkeys(s.stage for s in spans)
    }
    return RoundTimes(alone, threaded, simulated, workers, stages, np.array(idle), np.array(by_worker))


def idle_share(spans: Sequence[Span], workers: int, process: int | None = None) -> float:
    """Of one round's spans: how much of the time that `workers` have while the cohort trains passes without a call.

    It is what the last calls leave over, and what passes between a worker's calls. process: of this one alone.
    """
    training = [span for span in spans if span.stage == "train"]
    whole = sum(span.wall_s for span in training if span.task < 0)
    calls = [span for span in training if span.task >= 0 and process in (None, span.pid)]
    return 1 - sum(span.wall_s for span in calls) / (workers * whole)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
