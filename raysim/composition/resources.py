"""What the machines offer, and the `auto` rules and refusals that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raysim.backends.capacity import Capacity, ClientActors
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError
from raysim.matrix.layout import Layout
from raysim.matrix.updates import CHUNK_VALUES, shard_bounds

if TYPE_CHECKING:
    from torch import nn


def client_actors(config: ExperimentConfig, workers: int) -> ClientActors:
    """How many client actors, and what each reserves: the sum over the clients it hosts."""
    resources, cohort = config.resources, config.population.cohort_size
    per_actor = resources.clients_per_actor
    if not isinstance(per_actor, int):
        return ClientActors(min(workers, cohort))
    count = -(-cohort // per_actor)
    hosted = min(per_actor, cohort)
    return ClientActors(
        count, cpus=hosted * resources.client_cpus, gpus=min(1.0, hosted * resources.client_gpus)
    )


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
    for key, share, held in (
        ("client_gpus", resources.client_gpus, capacity.gpus),
        ("client_cpus", resources.client_cpus, max(capacity.cpus - 1, 0)),
    ):
        if share * cohort > held + 1e-9:
            what = "GPUs" if key == "client_gpus" else "CPUs (one is kept for the detection tasks)"
            raise ConfigError(
                f"resources.{key}",
                f"{cohort} clients with {share:g} each need {share * cohort:g}, and there are {held:g} {what}",
                share,
                _share(held, cohort),
            )
    device = resources.device
    if device == "auto":
        device = "cuda" if capacity.gpus and _cuda() else "cpu"
    elif device == "cuda" and not _cuda():
        raise ConfigError("resources.device", "torch finds no CUDA device here", device, "cpu")
    assert isinstance(tile_bytes, int), "decided above"
    bounds = shard_bounds(cohort, layout.dim, tile_bytes)
    return config.filled_in(
        population={"cohort": cohort},
        resources={
            "tile_bytes": tile_bytes,
            "column_shards": len(bounds) - 1,
            "clients_per_actor": clients_per_actor(config, capacity),
            "device": device,
        },
    )


def clients_per_stack(config: ExperimentConfig, model: nn.Module, input_shape: Sequence[int]) -> int:
    """How many clients train together: what was asked for, or a rule on the model and the batches.

    `auto` is 1 on a GPU, where nothing was measured. ConfigError where the model cannot be stacked; the device
    must be decided.
    """
    from raysim.training.stacked import group_size, obstacle

    wanted = config.training.clients_per_stack
    if wanted == "auto":
        if config.resources.device != "cpu":
            return 1
        cohort = config.population.cohort_size
        return group_size(cohort, model, input_shape, config.training.batch_size)
    reason = obstacle(model) if wanted > 1 else ""
    if wanted > 1 and len(input_shape) != 3:
        reason = f"its inputs of shape {tuple(input_shape)} are not images"
    if reason:
        raise ConfigError(
            "training.clients_per_stack", f"must be 1 with {config.model.name}: {reason}", wanted, 1
        )
    return wanted


def clients_per_actor(config: ExperimentConfig, capacity: Capacity) -> int | str:
    """How many clients one actor hosts and reserves for; "auto" is left where nothing is reserved.

    All actors reserve the same, and none can have a share of two GPUs: ConfigError where they do not fit.
    """
    resources, cohort = config.resources, config.population.cohort_size
    wanted = resources.clients_per_actor
    if not resources.client_gpus and not resources.client_cpus:
        return wanted
    gpus, cpus = int(capacity.gpus), max(capacity.cpus - 1, 0)

    def fits(size: int) -> bool:
        actors, gpu = -(-cohort // size), size * resources.client_gpus
        return actors * size * resources.client_cpus <= cpus + 1e-9 and (
            not gpu or actors <= int(1 / gpu + 1e-9) * gpus
        )

    possible = [size for size in range(1, cohort + 1) if fits(size)]
    if not possible:
        raise ConfigError(
            "resources.client_gpus",
            f"{cohort} clients with {resources.client_gpus:g} each do not fit {gpus} GPUs: none spans two",
            resources.client_gpus,
            _share(1, -(-cohort // gpus)),
        )
    if wanted == "auto":
        return min(
            (size for size in possible if size >= cohort / max(capacity.cpus, 1)), default=possible[-1]
        )
    if min(wanted, cohort) not in possible:
        raise ConfigError(
            "resources.clients_per_actor",
            f"actors that each reserve for this many of {cohort} clients (client_gpus={resources.client_gpus:g}, "
            f"client_cpus={resources.client_cpus:g}) do not fit {gpus} GPUs and {cpus} CPUs",
            wanted,
            min(possible, key=lambda size: abs(size - wanted)),
        )
    return wanted


def _share(held: float, parts: int) -> float:
    return int(held / parts * 1e4) / 1e4


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
