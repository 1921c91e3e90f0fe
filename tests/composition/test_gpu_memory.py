"""What client actors take of a GPU's memory, by hand, and the shares that the plan refuses."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from raysim.backends.capacity import Capacity, ClientActors
from raysim.composition.compose import compose
from raysim.composition.estimate import lines, make_plan
from raysim.composition.given import Given
from raysim.composition.gpu_memory import CONTEXT_BYTES, host_gpu_bytes, refuse_too_many
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import Experiment
from raysim.errors import ConfigError

GIB = 2**30
FOUR = Capacity(cpus=8, gpus=1, gpu_memory_bytes=4 * GIB, elsewhere=True)


class Linear(nn.Module):
    """Saves its inputs for the backward pass, and nothing else."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Flatten()
        self.head = nn.Linear(64, num_classes)

    def forward(self, images: Any) -> Any:
        return self.head(self.conv(images))


def experiment_of(**resources: object) -> Experiment:
    config = ExperimentConfig(
        population={"clients": 10},
        data={"name": "digits", "limit": 300},
        server_data={"samples": 0},
        training={"batch_size": 8, "clients_per_stack": 1},
        resources=resources,
    )
    return compose(config, FOUR, Given(model=Linear))


def test_the_bytes_of_one_actor() -> None:
    """650 parameters five times; 8 samples of 64 floats, and as much for their gradients; 30 samples of the client."""
    assert host_gpu_bytes(experiment_of()) == CONTEXT_BYTES + 5 * 4 * 650 + 2 * 8 * 64 * 4 + 30 * 64 * 4


def test_a_share_that_holds_an_actor_is_planned_and_a_smaller_one_refused() -> None:
    half = experiment_of(client_gpus=0.5)
    plan = make_plan(half, FOUR, 2**36, calibrate=False)
    assert plan.gpu_bytes == host_gpu_bytes(half)
    assert ("of a GPU, an actor", "about 512 MiB") in lines(half.config, plan)
    with pytest.raises(
        ConfigError, match=r"resources.client_gpus: must be a share of 4.00 GiB .* nearest valid: 0.12"
    ):
        make_plan(experiment_of(client_gpus=0.1), FOUR, 2**36, calibrate=False)


def test_actors_without_a_share_divide_the_gpus_there_are() -> None:
    experiment, two = experiment_of(), Capacity(cpus=8, gpus=2, gpu_memory_bytes=4 * GIB)
    refuse_too_many(experiment, two, ClientActors(8), GIB)
    with pytest.raises(ConfigError, match=r"0.2 is 819 MiB; received 0.0; nearest valid: 0.25"):
        refuse_too_many(experiment, two, ClientActors(9), GIB)


def test_what_fits_no_gpu_is_refused_with_what_makes_it_smaller() -> None:
    with pytest.raises(ConfigError, match=r"training.clients_per_stack: must let one client actor fit a GPU"):
        refuse_too_many(experiment_of(), FOUR, ClientActors(1, gpus=1.0), 5 * GIB)


@pytest.mark.parametrize(
    ("resources", "capacity"),
    [({}, Capacity(cpus=8, gpus=1)), ({"device": "cpu"}, FOUR), ({}, Capacity(cpus=8, gpu_memory_bytes=GIB))],
)
def test_where_nothing_is_known_or_nobody_trains_on_gpus_nothing_is_refused(
    resources: dict[str, str], capacity: Capacity
) -> None:
    refuse_too_many(experiment_of(**resources), capacity, ClientActors(4, gpus=0.01), 5 * GIB)
