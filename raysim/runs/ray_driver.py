"""The driver's side of a run on Ray: publish the data, start the Server actor, watch it, restart it."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as gone
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysim.backends.capacity import Capacity
from raysim.backends.ray_actors import as_own_error
from raysim.composition.resources import client_actors
from raysim.engine.experiment import Experiment
from raysim.errors import RunError
from raysim.runs.execution import STOPPING, Observer, Progress
from raysim.runs.server import Server

SERVER_RESTARTS = 3
"""How often a Server actor that died is started again from the newest checkpoint."""

POLL_S = 0.1


def drive(experiment: Experiment, path: Path, capacity: Capacity, observe: Observer) -> None:
    """Run the experiment in a Server actor on this node, on a cluster of this capacity; returns when it is done."""
    config = experiment.config
    workers = capacity.workers(config.resources.threads)
    # The driver owns the data: it outlives a server that has to be started again.
    held = replace(experiment, arrays=tuple(ray.put(array) for array in experiment.arrays))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {
        "num_cpus": 0,
        "num_gpus": 0,
        "max_concurrency": 2,
        "scheduling_strategy": here,
    }
    actor_class: Any = ray.remote(Server).options(**options)  # Ray's types know no methods of actors
    died_at = 0.0
    for attempt in range(SERVER_RESTARTS + 1):
        observe(Progress(0, config.rounds, awaited="starting the server's process"))
        server = actor_class.remote(held, path, client_actors(config, capacity), workers, attempt, died_at)
        try:
            _watch(server, observe)
            return
        except gone.RayActorError as error:
            if error.actor_init_failed:  # as it would be every time
                raise RunError(f"the Server actor could not start: {_last_line(error)}") from error
            if attempt == SERVER_RESTARTS:
                raise RunError(f"the Server actor died {attempt + 1} times: {error}") from error
            died_at = time.time()
        finally:
            ray.kill(server)


def _last_line(error: Exception) -> str:
    """The innermost error in Ray's text, which has whole tracebacks in it, coloured ones."""
    return re.sub(r"\x1b\[\d*m", "", str(error)).strip().rpartition("\n")[2].strip()


def _watch(server: Any, observe: Observer) -> None:
    """Pass on progress until the run is over; the run's own error is raised as it was raised there.

    When the driver is interrupted, the server saves the last finished round before the interrupt goes on.
    """
    finished = server.run.remote()
    over = False
    try:
        while not over:
            over = bool(ray.wait([finished], timeout=POLL_S)[0])
            try:
                for event in ray.get(server.progress.remote()):
                    observe(event)
            except gone.RayActorError:
                over = True
    except KeyboardInterrupt:
        observe(Progress(0, 0, remark=STOPPING))
        with suppress(gone.RayError):  # the next run then goes on from an earlier checkpoint
            ray.get(server.stop.remote())
        raise
    try:
        ray.get(finished)
    except gone.RayTaskError as error:
        raise as_own_error(error) from error
