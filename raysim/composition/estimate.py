"""What a run will need, estimated before anything starts: processes, memory, object store, time.

Numbers are sums over what the engine is known to hold, not measurements of a run; the seconds come from
training one group of clients and evaluating one batch here, so they hold for machines like this one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import psutil

from raysim.backends import devices
from raysim.backends.base import ThreadLimit
from raysim.backends.capacity import Capacity, ClientActors
from raysim.composition.gpu_memory import host_gpu_bytes, refuse_too_many
from raysim.composition.machines import STORE_SHARE
from raysim.composition.resources import client_actors
from raysim.config.schema import ExperimentConfig
from raysim.engine.calls import split_cohort
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost, RoundOrder
from raysim.formats import duration, seconds, size
from raysim.matrix.pairs import is_whole
from raysim.matrix.updates import chunk_columns

PROCESS_BYTES = 200 * 2**20
"""Own memory of a worker process that has imported torch (measured: about 190 MB)."""

DEFAULT_TILE_BYTES = 2**26


@dataclass(frozen=True)
class Estimate:
    """A resource estimate, with warnings about what will not fit."""

    actors: ClientActors
    calls_per_round: int
    model_bytes: int
    older_models: int
    """Global models beside the newest two that an asynchronous run holds at most: those that clients under way were sent."""
    actor_bytes: int
    gpu_bytes: int
    """What a client actor takes of a GPU's memory while it trains; 0 on CPUs."""
    store_bytes: int
    """Object-store bytes of one round: uploads, global vectors, data, test sets, partition."""
    column_shards: int
    row_blocks: int
    gram_bytes: int
    """K x K matrices held at a time: partial sums of one shard and the result; above K = 1,448 the result's tiles."""
    train_s: float
    """Seconds to train one client, or to draw its update; NaN without calibration."""
    evaluate_s: float
    """Seconds to evaluate the test sets on one worker."""
    round_s: float
    """Training (or drawing) and evaluation of a round on all workers; the defense comes on top."""
    warnings: tuple[str, ...]


def local_capacity() -> Capacity:
    """What a Ray cluster on this machine alone would offer."""
    import torch

    memory, gpus = psutil.virtual_memory().total, range(torch.cuda.device_count())
    held = [torch.cuda.get_device_properties(gpu).total_memory for gpu in gpus]
    return Capacity(
        cpus=psutil.cpu_count() or 1,
        gpus=float(len(gpus)),
        gpu_memory_bytes=min(held, default=0),
        object_store_bytes=int(STORE_SHARE * memory),
    )


def make_plan(
    experiment: Experiment,
    capacity: Capacity,
    memory_bytes: int,
    *,
    calibrate: bool = True,
    lighter: Experiment | None = None,
) -> Estimate:
    """The estimate for a composed experiment on machines of this capacity and memory in all.

    lighter: one with fewer batches a client, which is timed in its place; training counts as long as its batches.
    ConfigError if client actors are to share a GPU whose memory does not hold them.
    """
    config, layout = experiment.config, experiment.setup.layout
    cohort = config.population.cohort_size
    workers = capacity.workers(config.resources.threads)
    actors = client_actors(config, capacity)
    calls = split_cohort(np.arange(cohort), experiment, max(workers, actors.count))
    model = 4 * layout.num_columns
    rows = max(len(call) for call in calls) * model
    data = sum(array.nbytes for array in experiment.arrays)
    store = cohort * model + 3 * model + data
    chunks_per_shard = -(-(layout.dim // max(len(experiment.setup.bounds) - 1, 1)) // chunk_columns(cohort))
    # One tile is added up of all chunks; many are made one by one, the lower half of K x K in all.
    gram = 8 * cohort**2 * (chunks_per_shard + 2) if is_whole(cohort) else 4 * cohort**2
    # A host holds the model, its gradient, the start and the optimizer's momenta, and the rows it makes.
    actor = PROCESS_BYTES + 5 * model + rows
    trains = experiment.setup.synthetic is None
    gpu = host_gpu_bytes(experiment) if trains and capacity.gpus and config.resources.device != "cpu" else 0
    refuse_too_many(experiment, capacity, actors, gpu)
    train_s = evaluate_s = float("nan")
    if calibrate and lighter is None:
        train_s, evaluate_s = calibration(experiment, calls[0])
    elif calibrate and lighter is not None:
        train_s, evaluate_s = calibration(lighter, calls[0])
        train_s *= middle_batches(experiment) / middle_batches(lighter)
        evaluate_s *= sum(experiment.test_sizes) / sum(lighter.test_sizes)
    busy = min(workers, actors.count)
    round_s = (cohort * train_s + evaluate_s / max(config.evaluation.every, 1)) / busy
    return Estimate(
        actors=actors,
        calls_per_round=len(calls),
        model_bytes=model,
        older_models=older_models(experiment),
        actor_bytes=actor,
        gpu_bytes=gpu,
        store_bytes=store,
        column_shards=len(experiment.setup.bounds) - 1,
        row_blocks=len(calls),
        gram_bytes=gram,
        train_s=train_s,
        evaluate_s=evaluate_s,
        round_s=round_s,
        warnings=tuple(objections(config, capacity, memory_bytes, actors, actor, store, gram)),
    )


def older_models(experiment: Experiment) -> int:
    """One a client under way, fewer where staleness has a limit; with attackers also the one before each. 0: synchronous."""
    under_way = experiment.config.population.concurrency or 0
    limit = experiment.config.server.max_staleness
    if limit is None:
        return 2 * under_way if experiment.setup.campaigns else under_way
    return min(under_way, limit) + bool(experiment.setup.campaigns and under_way)


def objections(
    config: ExperimentConfig,
    capacity: Capacity,
    memory_bytes: int,
    actors: ClientActors,
    actor_bytes: int,
    store_bytes: int,
    gram_bytes: int,
) -> list[str]:
    """What will not fit, each with the key to change."""
    found = []
    if actors.count * actor_bytes > 0.7 * memory_bytes:
        fits = max(1, int(0.7 * memory_bytes / actor_bytes))
        hosted = -(-config.population.cohort_size // fits)
        found.append(
            f"{actors.count} client actors need {size(actors.count * actor_bytes)} of {size(memory_bytes)}: "
            f"set resources.clients_per_actor to at least {hosted}"
        )
    if capacity.object_store_bytes and store_bytes > 0.8 * capacity.object_store_bytes:
        found.append(
            f"a round puts {size(store_bytes)} into an object store of {size(capacity.object_store_bytes)} "
            "and will spill to disk: reduce population.cohort, add nodes, or take a narrower model (model.width)"
        )
    if gram_bytes > 0.2 * memory_bytes:
        found.append(f"pairwise defenses hold {size(gram_bytes)} of K x K matrices: reduce population.cohort")
    reserved = actors.count * actors.gpus
    if reserved > capacity.gpus and not config.resources.elastic:
        found.append(f"actors reserve {reserved:g} GPUs of {capacity.gpus:g}: reduce resources.client_gpus")
    return found


def middle_group(experiment: Experiment) -> np.ndarray:
    """The clients that are timed: a group of middling size, by id."""
    middle = np.argsort(experiment.sizes, kind="stable")[len(experiment.sizes) // 2 :]
    return np.sort(middle[: experiment.setup.clients_per_stack])


def middle_batches(experiment: Experiment) -> int:
    """Batches that the clients of that group train on in a round."""
    training = experiment.config.training
    batches = -(-experiment.sizes[middle_group(experiment)] // training.batch_size)
    return int(training.epochs * batches.sum())


def calibration(experiment: Experiment, call: np.ndarray) -> tuple[float, float]:
    """(seconds a client, training a group of middling size; seconds for all test sets), one worker, warmed up.

    Where updates are drawn instead, the first are those of drawing the rows of one call, a client's share.
    """
    device = devices.decided("cpu" if experiment.setup.device == "cpu" else "auto")
    with devices.working_on(device):
        host = ClientHost(experiment.setup, *experiment.arrays)
    drawn = experiment.setup.synthetic is not None
    group = call if drawn else middle_group(experiment)
    batch = min(experiment.config.evaluation.batch_size, experiment.test_sizes[0])
    order = RoundOrder(0, int(experiment.sizes[group].sum()))

    def upload() -> None:
        if drawn:
            host.draw(order, group)
        else:
            host.train(order, group.tolist(), experiment.initial, None)

    with ThreadLimit(experiment.config.resources.threads)(), devices.working_on(device):
        upload()
        began = time.perf_counter()
        upload()
        trained = time.perf_counter()
        host.evaluate(experiment.initial, 0, 0, batch)
        ended = time.perf_counter()
    seconds = (trained - began) / len(group)
    return seconds, (ended - trained) * sum(experiment.test_sizes) / batch


def lines(config: ExperimentConfig, plan: Estimate) -> list[tuple[str, str]]:
    """The plan as (what, how much), for printing."""
    actors = plan.actors
    reserved = (
        f", each reserving {actors.cpus:g} CPUs and {actors.gpus:g} GPUs"
        if actors.cpus or actors.gpus
        else ""
    )
    rows = [
        ("client actors", f"{actors.count}{reserved}; {plan.calls_per_round} calls a round"),
        (
            "memory of an actor",
            f"{size(plan.actor_bytes)} ({size(actors.count * plan.actor_bytes)} in all)",
        ),
        *([("of a GPU, an actor", f"about {size(plan.gpu_bytes)}")] if plan.gpu_bytes else []),
        ("model", f"{size(plan.model_bytes)}, buffers included"),
        *_older(plan),
        ("object store, a round", size(plan.store_bytes)),
        ("tiles", f"{plan.row_blocks} row blocks x {plan.column_shards} column shards (and one of buffers)"),
        ("K x K matrices", size(plan.gram_bytes)),
    ]
    if plan.round_s == plan.round_s:
        work = "training" if config.updates.name == "trained" else "drawing"
        rows += [
            (f"{work} one client", seconds(plan.train_s)),
            (f"{work} and evaluation", f"{seconds(plan.round_s)} a round"),
            ("rounds an hour", f"at most {3600 / plan.round_s:.0f}, the defense not counted"),
            ("the whole run", f"at least {duration(config.rounds * plan.round_s)}"),
        ]
    return rows


def _older(plan: Estimate) -> list[tuple[str, str]]:
    """What an asynchronous run holds beside the newest models."""
    if not plan.older_models:
        return []
    held = size(plan.older_models * plan.model_bytes)
    return [
        (
            "older global models",
            f"at most {plan.older_models}, {held}, in the server's memory and in a checkpoint",
        )
    ]
