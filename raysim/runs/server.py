"""The Server actor: owns the run on Ray, its references, its client actors and its files.

The driver starts one, looks at its progress now and then, and starts another from the newest checkpoint when
it dies.
"""

from __future__ import annotations

import threading
from pathlib import Path

from raysim.backends.base import Place, prepare_worker
from raysim.backends.capacity import ClientActors
from raysim.backends.metrics import RoundMetrics
from raysim.backends.ray_backend import RayBackend
from raysim.engine.experiment import Experiment
from raysim.runs.directory import RunDirectory
from raysim.runs.execution import Keeper, Progress, execute, restart_span


class Server:
    """Runs one experiment on Ray; `run` and one of the others are called concurrently."""

    def __init__(
        self,
        experiment: Experiment,
        path: Path,
        actors: ClientActors,
        workers: int,
        restarts: int = 0,
        died_at: float = 0.0,
    ) -> None:
        """restarts: how many servers of this run died before; died_at: when the last was missed, seconds since the epoch."""
        resources = experiment.config.resources
        prepare_worker(resources.threads)
        self.experiment, self.actors, self.directory = experiment, actors, RunDirectory(path)
        self.backend = RayBackend(
            actors,
            workers=workers,
            threads=resources.threads,
            placement=resources.placement,
            device=resources.device,
            elastic=resources.elastic,
        )
        told = {"tell": RoundMetrics().tell} if resources.metrics else {}
        self.keeper = Keeper(experiment, self.backend, self.directory, **told)
        self._events: list[Progress] = []
        self._lock = threading.Lock()
        if restarts:
            self.backend.telemetry.spans.append(restart_span(self.backend, died_at, restarts))

    def run(self) -> str:
        """Run to the end; the digest of the final global vector."""
        awaited = f"starting {self.actors.count} actors that host the clients"
        self._observe(Progress(0, self.experiment.config.rounds, awaited=awaited))
        try:
            return execute(self.experiment, self.backend, self.directory, self._observe, self.keeper)
        finally:
            self.backend.close()

    def stop(self) -> None:
        """Save the last finished round; the driver ends this process afterwards."""
        self.keeper.stop()

    def progress(self) -> list[Progress]:
        """What happened since the last call."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def places(self) -> list[Place]:
        """Node, process and GPUs of the client actors."""
        return self.backend.client_places()

    def _observe(self, event: Progress) -> None:
        with self._lock:
            self._events.append(event)
