"""`raysim bench rounds`: what a simulated round costs beside the bare training it contains."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raysim.backend import Backend, InProcessBackend, ThreadLimit
from raysim.bench.bare_loop import BareLoop
from raysim.client import ClientHost
from raysim.composition import Capacity, compose
from raysim.config import ExperimentConfig
from raysim.execution import keep_round
from raysim.experiment import Experiment
from raysim.records import RunDirectory
from raysim.simulation import initial_state, rounds, start
from raysim.telemetry import Span

CASES: Mapping[str, dict[str, Any]] = {
    "digits": {
        "population": {"clients": 100},
        "data": {"name": "digits", "partition": {"name": "iid", "samples_per_client": 100}},
        "model": "digits_cnn",
        "training": {"epochs": 1, "batch_size": 10, "optimizer": {"lr": 0.05}},
    },
    "cifar10": {
        "population": {"clients": 24},
        "data": {"name": "cifar10", "limit": 12_000, "partition": {"name": "iid", "samples_per_client": 320}},
        "model": "flare_cifar",
        "training": {"epochs": 1, "batch_size": 32, "optimizer": {"lr": 0.05}},
    },
}
"""Name -> configuration. Both are defended by Krum; every round is evaluated, recorded and traced."""


@dataclass(frozen=True)
class RoundTimes:
    """Seconds of each repeat: the bare loop in one process, and the simulator's whole round."""

    bare_s: np.ndarray
    simulated_s: np.ndarray
    workers: int
    stages: dict[str, float]
    """Mean seconds a round of every stage, as the server saw it."""

    @property
    def ratios(self) -> np.ndarray:
        """Simulated time over the ideal (bare time / workers), pair by pair [repeats]."""
        return self.simulated_s / (self.bare_s / self.workers)


def bench_config(case: str, rounds: int, root: str | None = None) -> ExperimentConfig:
    """The configuration of a case, `rounds` rounds long, with its data under `root`."""
    values = {**CASES[case], "rounds": rounds, "defense": {"name": "krum"}}
    return ExperimentConfig.from_mapping({**values, "data": {**values["data"], "root": root}})


def measure(config: ExperimentConfig, repeats: int, workers: int, *, on_ray: bool) -> RoundTimes:
    """Warm up, then time the bare loop and a simulated round in turn, `repeats` times.

    The simulated round is the engine's own: broadcast, training, upload, Krum, evaluation, telemetry, tables
    and a checkpoint on disk. config.rounds must be at least repeats + 2.
    """
    if not on_ray:
        backend: Backend = InProcessBackend(threads=config.resources.threads)
        return _measure(compose(config, Capacity()), backend, repeats, 1)
    from raysim import ray_cluster

    with ray_cluster.connected(num_cpus=workers):
        from raysim.ray_backend import RayBackend
        from raysim.resources import client_actors

        experiment = compose(config, ray_cluster.capacity())
        ray_backend = RayBackend(
            client_actors(experiment.config, workers), workers=workers, threads=config.resources.threads
        )
        try:
            return _measure(experiment, ray_backend, repeats, workers)
        finally:
            ray_backend.close()


def _measure(experiment: Experiment, backend: Backend, repeats: int, workers: int) -> RoundTimes:
    clients = np.arange(len(experiment.sizes))
    limit = ThreadLimit(experiment.config.resources.threads)
    bare = BareLoop(experiment.plan, ClientHost(experiment.plan, *experiment.arrays), clients)
    held = experiment.published(backend)
    start(held, backend)
    bare_s: list[float] = []
    simulated_s: list[float] = []
    spans: list[Span] = []
    with tempfile.TemporaryDirectory() as folder, limit():
        directory = RunDirectory(Path(folder))
        simulation = rounds(held, backend, initial_state(held, backend))
        for repeat in range(-2, repeats):  # the first two warm up caches and worker processes
            began = time.perf_counter()
            bare.round()
            between = time.perf_counter()
            state, record = next(simulation)
            keep_round(held, backend, directory, state, record)
            ended = time.perf_counter()
            if repeat >= 0:
                bare_s.append(between - began)
                simulated_s.append(ended - between)
                spans.extend(span for span in record.spans if span.task < 0)
    stages = {
        name: sum(s.wall_s for s in spans if s.stage == name) / repeats
        for name in dict.fromkeys(s.stage for s in spans)
    }
    return RoundTimes(np.array(bare_s), np.array(simulated_s), workers, stages)
