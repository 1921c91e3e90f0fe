"""One cell of `raysim bench growth`: rounds of one setting, on client actors of its own."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

from raysim.backends import ray_connection as ray_cluster
from raysim.backends.base import Place, prepare_worker
from raysim.backends.ray_backend import RayBackend
from raysim.backends.telemetry import WHOLE_STAGE, Span, reset_peak_memory
from raysim.composition.compose import compose
from raysim.composition.resources import client_actors
from raysim.engine.experiment import Experiment, RunState
from raysim.engine.simulation import initial_state, rounds, start
from raysim.runs.directory import RunDirectory, digest
from raysim.runs.execution import Keeper
from raysim.studies.memory import RayWatch
from raysim.studies.rounds.cases import WARM_UP
from raysim.studies.rounds.growth import GrowthCell, GrowthPlan
from raysim.studies.stages import AFTER, after_the_last_client, stage_rows, summary
from raysim.studies.store import span_rows
from raysim.studies.table import Row


def measure_cell(plan: GrowthPlan, cell: GrowthCell, watch: RayWatch | None) -> dict[str, list[Row]]:
    """Rounds, memory and spans of one repeat: actors come up, warm up, are timed, watched, and go.

    watch: of the nodes' memory, in one more round after those that are timed; None: none.
    """
    capacity = ray_cluster.capacity()
    experiment = compose(plan.config(cell), capacity)
    threads = experiment.config.resources.threads
    workers = capacity.workers(threads)
    prepare_worker(threads)
    backend = RayBackend(
        client_actors(experiment.config, capacity),
        workers=workers,
        threads=threads,
        device=experiment.setup.device,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(backend):
        directory = RunDirectory(Path(folder))
        held = experiment.published(backend)
        start(held, backend)
        common = _common(plan, experiment, backend.client_places())
        keeper = Keeper(held, backend, directory)
        simulation = rounds(held, backend, initial_state(held, backend))

        def one_round() -> tuple[list[Span], RunState]:
            state, record = next(simulation)
            keeper.keep(state, record)
            return [*record.spans, *backend.telemetry.drain()], state

        backend.telemetry.drain()
        for _ in range(WARM_UP):
            one_round()
        timed: list[Row] = []
        kept: list[Row] = []
        for number in range(plan.rounds):
            reset_peak_memory()
            began, cpu, clock = time.time(), time.process_time(), time.perf_counter()
            spans, state = one_round()
            wall, cpu = time.perf_counter() - clock, time.process_time() - cpu
            cpu += sum(span.cpu_s for span in spans if span.task != WHOLE_STAGE)
            result = digest(state.global_vector)
            found = stage_rows(spans, wall_s=wall, cpu_s=cpu, started_s=began, result=result)
            if (after_s := after_the_last_client(spans)) is not None:
                found.append({**summary([]), "stage": AFTER, "order": len(found), "wall_s": after_s})
            timed += [{**common, "round": number, **row} for row in found]
            kept += span_rows(cell, spans, round=number)
        if watch is None:
            return {"rounds": timed, "memory": [], "spans": kept}
        with watch.memory() as peaks:
            one_round()
        memory = [{**common, "node": number, **vars(node)} for number, node in enumerate(peaks)]
        return {"rounds": timed, "memory": memory, "spans": kept}


def _common(plan: GrowthPlan, experiment: Experiment, places: list[Place]) -> Row:
    """The columns that all rows of a cell have in common, beside those of the cell."""
    return {
        "model": experiment.config.model.name,
        "parameters": experiment.setup.layout.dim,
        "kind": plan.kind,
        "bandwidth": plan.bandwidth or "",
        "cpus_per_node": plan.cpus_per_node,
        "gpus_per_node": plan.gpus_per_node,
        "clients_per_stack": experiment.setup.clients_per_stack,
        "actors": len(places),
        "actor_nodes": len({place["node"] for place in places}),
        "actor_gpus": len({(place["node"], gpu) for place in places for gpu in place["gpus"]}),
        "seed": experiment.config.seed,
    }
