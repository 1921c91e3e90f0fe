"""Whether a GPU's memory holds the client actors that are to share it, reckoned before anything starts.

A sum over what a host is known to keep there, and what one forward pass saves for its backward pass, measured with the
model itself on a CPU; no measurement of a run, whose peaks are in `spans.parquet` (`peak_gpu_bytes`).
"""

from __future__ import annotations

import math

import numpy as np

from raysim.backends.capacity import Capacity, ClientActors
from raysim.engine.experiment import Experiment
from raysim.engine.host import ClientHost
from raysim.errors import ConfigError
from raysim.formats import size

CONTEXT_BYTES = 512 * 2**20
"""What a process takes of a GPU before its first tensor: CUDA's context and its libraries. Assumed, not measured here."""

COPIES = 5
"""Vectors as long as the model that training one client keeps: the model, its start, its gradient, two momenta."""


def host_gpu_bytes(experiment: Experiment) -> int:
    """The bytes of a GPU that one client actor takes while it trains its largest stack, made of the largest clients."""
    import torch

    setup = experiment.setup
    together = setup.clients_per_stack
    host = ClientHost(setup, *experiment.arrays)
    largest = np.argsort(experiment.sizes, kind="stable")[::-1][:together]
    data = host.data_of(int(largest[0]))
    samples = int(experiment.sizes[largest].sum()) * data.images[:1].nbytes
    batch = torch.from_numpy(data.images[: setup.recipe.batch_size])
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept = []
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept.append(host.trainer.model.train()(batch))  # held, lest storages are freed and used again
    saved.pop(host.trainer.vector.untyped_storage().data_ptr(), None)
    own = COPIES * 4 * setup.layout.num_columns
    # The stack lies beside the model that hosts keep for clients which train alone.
    stacks = together if together > 1 else 0
    return CONTEXT_BYTES + own * (1 + stacks) + 2 * together * sum(saved.values()) + samples


def refuse_too_many(experiment: Experiment, capacity: Capacity, actors: ClientActors, needed: int) -> None:
    """ConfigError if the actors that share a GPU need more memory than it has. needed: of each, `host_gpu_bytes`."""
    memory, config = capacity.gpu_memory_bytes, experiment.config
    if not memory or not capacity.gpus or config.resources.device == "cpu":
        return
    share = actors.gpus or 1 / math.ceil(actors.count / capacity.gpus)
    if needed <= share * memory:
        return
    if needed > memory:
        rule = (
            f"must let one client actor fit a GPU: it needs about {size(needed)} and there are {size(memory)}; reduce "
            "training.batch_size or training.clients_per_stack, or take a smaller model"
        )
        raise ConfigError("training.clients_per_stack", rule, experiment.setup.clients_per_stack, 1)
    least = math.ceil(1e4 * needed / memory) / 1e4
    rule = (
        f"must be a share of {size(memory)} that holds about {size(needed)}, which a client actor needs while it trains; "
        f"{share:g} is {size(share * memory)}"
    )
    raise ConfigError("resources.client_gpus", rule, config.resources.client_gpus, least)
