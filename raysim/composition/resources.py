"""What the machines offer, and the `auto` rules and refusals that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from raysim.backends import devices
from raysim.backends.capacity import SLACK, Capacity, ClientActors
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import CHUNK_VALUES, shard_bounds

if TYPE_CHECKING:
    from torch import nn


MORE_THAN_ASKED = 2**40
"""CPUs or GPUs of a cluster without a bound."""

ACTORS_PER_CPU = 4
"""How many actors with a share of a GPU `auto` starts for each CPU: clients wait for their GPU part of the time, but each
step of theirs is launched by a CPU, and every process costs about 200 MB and a second of start."""


def client_actors(config: ExperimentConfig, capacity: Capacity) -> ClientActors:
    """How many client actors, and what each reserves: the share of one client, because it trains one at a time.

    Clients that train as one stack (training.clients_per_stack) count as one: a process's share of a GPU is mostly torch's
    own memory, and stacks are of small models; what a stack of large ones takes is `client_gpus` itself.
    As many actors as `clients_per_actor` makes of the cohort; with `auto` as many as fit, and at most one for every
    group that trains together: the cohort takes turns on them. If nothing is reserved, one a worker.
    CPUs bound `auto` too (ACTORS_PER_CPU), but every GPU gets an actor; if they do, each actor reserves as much as lets
    these still fit, since Ray fills one GPU with shares before it turns to the next.
    """
    resources, cohort = config.resources, config.population.cohort_size
    per_actor, together = resources.clients_per_actor, config.training.clients_per_stack
    kept = kept_gpus(config)
    cpus, gpus = resources.client_cpus, resources.client_gpus
    if isinstance(per_actor, int):
        count = -(-cohort // per_actor)
    elif cpus or gpus:
        groups = -(-cohort // (together if isinstance(together, int) else 1))
        fitting = min(groups, capacity.holds(cpus, gpus, kept))
        count = max(1, int(min(fitting, _driven(config, capacity))))
        if count < fitting and gpus:
            shares = (_share(1, parts) for parts in range(1, int(1 / gpus) + 1))
            gpus = next((share for share in shares if capacity.holds(cpus, share, kept) >= count), gpus)
    else:
        count = min(capacity.workers(resources.threads), cohort)
    lend = resources.server_gpus == "auto"
    grows = resources.elastic and per_actor == "auto" and not (cpus or gpus)
    return ClientActors(count, cpus, gpus, kept, lend, cohort if grows else 0)


def _driven(config: ExperimentConfig, capacity: Capacity) -> int:
    """How many actors the CPUs keep busy, and one for every GPU at least."""
    return max(ACTORS_PER_CPU * capacity.workers(config.resources.threads), int(capacity.gpus))


def detection_actors(config: ExperimentConfig, capacity: Capacity) -> ClientActors:
    """Who computes detection stages if nobody trains: an actor on every GPU, or on those kept for it."""
    if config.resources.device == "cpu" or config.resources.server_gpus == 0:
        return ClientActors(0)
    return ClientActors(0, detection_gpus=kept_gpus(config) or (1.0,) * int(capacity.gpus))


def kept_gpus(config: ExperimentConfig) -> tuple[float, ...]:
    """The shares of one GPU each that are kept for detection stages: resources.server_gpus."""
    wanted = config.resources.server_gpus
    if wanted == "auto" or not wanted or config.resources.device == "cpu":
        return ()
    if wanted > 1 and wanted % 1:
        rule = "must be a share of one GPU, or a number of whole ones"
        raise ConfigError("resources.server_gpus", rule, wanted, float(int(wanted)))
    return (wanted,) if wanted < 1 else (1.0,) * int(wanted)


def resolved(config: ExperimentConfig, layout: Layout, capacity: Capacity) -> ExperimentConfig:
    """The configuration with every `auto` decided by a rule, and impossible reservations refused."""
    resources = config.resources
    cohort = config.population.cohort_size
    tile_bytes = resources.tile_bytes
    if tile_bytes == "auto":
        # A shard of K rows is one object set; sixteen of them must fit the store beside the rest of a round.
        tile_bytes = 4 * CHUNK_VALUES
        if capacity.object_store_bytes:
            tile_bytes = max(2**20, min(tile_bytes, capacity.object_store_bytes // 16))
    refuse_oversubscription(config, capacity)
    assert isinstance(tile_bytes, int), "decided above"
    bounds = shard_bounds(cohort, layout.dim, tile_bytes)
    return config.filled_in(
        population={"cohort": cohort} if config.population.buffer is None else {},
        resources={
            "tile_bytes": tile_bytes,
            "column_shards": len(bounds) - 1,
            "device": device(config, capacity),
        },
    )


def refuse_oversubscription(config: ExperimentConfig, capacity: Capacity) -> None:
    """ConfigError for reservations that can never be met. With resources.elastic they may wait for what `at_most` says."""
    resources, cohort = config.resources, config.population.cohort_size
    kept = kept_gpus(config)
    if resources.elastic:
        capacity = at_most(config, capacity)
    per_actor = resources.clients_per_actor
    actors = -(-cohort // per_actor) if isinstance(per_actor, int) else 1
    for key, share, held, what in (
        ("client_gpus", resources.client_gpus, capacity.gpus, "GPUs"),
        (
            "client_cpus",
            resources.client_cpus,
            max(capacity.cpus - 1, 0),
            "CPUs (one is kept for the detection tasks)",
        ),
    ):
        if share * actors > held + SLACK:
            who = "clients" if per_actor == 1 else "actors"
            asked = f"{actors} {who} with {share:g} each need" if actors > 1 else "one client needs"
            there = "the autoscaler brings" if resources.elastic else "there are"
            rule = f"{asked} {share * actors:g}, and {there} {held:g} {what}"
            whole = int(capacity.gpus) if key == "client_gpus" else 0
            nearest = _share(1, -(-actors // whole)) if whole else _share(held, actors)
            raise ConfigError(f"resources.{key}", rule, share, nearest)
    fitting = capacity.holds(resources.client_cpus, resources.client_gpus, kept)
    if fitting < 0:
        rule = f"must leave something of {capacity.gpus:g} GPUs"
        raise ConfigError("resources.server_gpus", rule, resources.server_gpus, 0.0)
    if actors > fitting:
        shares = f"{resources.client_gpus:g} GPUs and {resources.client_cpus:g} CPUs"
        rule = (
            f"client actors reserve {shares} each, which no two GPUs or nodes serve together: {int(fitting)} "
            f"fit beside what the server keeps, and {actors} are asked for"
        )
        if isinstance(per_actor, int) and fitting:
            raise ConfigError("resources.clients_per_actor", rule, per_actor, -(-cohort // int(fitting)))
        key = "client_gpus" if resources.client_gpus else "client_cpus"
        raise ConfigError(f"resources.{key}", rule, getattr(resources, key))


def at_most(config: ExperimentConfig, capacity: Capacity) -> Capacity:
    """What an autoscaler brings the cluster to: by the configuration, else by what it has told, else more than anybody asks for."""
    resources = config.resources
    most = []
    for said, told in (
        (resources.elastic_cpus, capacity.most_cpus),
        (resources.elastic_gpus, capacity.most_gpus),
    ):
        known = told if said is None else said
        most.append(MORE_THAN_ASKED if known is None else known)
    cpus, gpus = max(most[0], capacity.cpus), max(most[1], capacity.gpus)
    return replace(capacity, cpus=int(cpus), gpus=float(gpus), nodes=())


def device(config: ExperimentConfig, capacity: Capacity) -> devices.Wanted:
    """The device of local training and of detection stages that can use a GPU.

    `auto` is decided here if the work is done here, or if there are no GPUs; else it stays, for the processes
    that do the work to decide (backends/devices.py): what they have need not be what this one has.
    """
    wanted = config.resources.device
    known = not capacity.elsewhere
    gpus = bool(capacity.gpus) or (capacity.elsewhere and config.resources.elastic)
    if wanted == "auto":
        if gpus and not known:
            return "auto"
        return "cuda" if gpus and not devices.obstacle() else "cpu"
    if wanted == "cuda":
        reason = devices.obstacle() if known else "" if gpus else "the cluster has no GPUs"
        if reason:
            raise ConfigError("resources.device", f"must be a device that is there: {reason}", wanted, "cpu")
    return wanted


def clients_per_stack(config: ExperimentConfig, model: nn.Module, input_shape: Sequence[int]) -> int:
    """How many clients train together: what was asked for, or a rule on the model and the batches.

    The rule is the same for every device, which may not be known yet. ConfigError if the model cannot be stacked.
    """
    from raysim.training.stacked import group_size, obstacle

    wanted = config.training.clients_per_stack
    augmented = config.training.augmentation != "none"
    if wanted == "auto":
        if augmented:
            return 1
        cohort = config.population.cohort_size
        return group_size(cohort, model, input_shape, config.training.batch_size)
    reason = obstacle(model) if wanted > 1 else ""
    if wanted > 1 and len(input_shape) != 3:
        reason = f"its inputs of shape {tuple(input_shape)} are not images"
    if wanted > 1 and augmented:
        reason = "training.augmentation draws for every client by itself"
    if reason:
        raise ConfigError(
            "training.clients_per_stack", f"must be 1 with {config.model.name}: {reason}", wanted, 1
        )
    return wanted


def _share(held: float, parts: int) -> float:
    return int(held / parts * 1e4) / 1e4
