"""What studies whose cells are whole runs have in common: where the runs go, and how many at a time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from raysim.errors import ConfigError
from raysim.options import Count
from raysim.report.trackers import TrackerName, require
from raysim.studies.study import InProcesses

if TYPE_CHECKING:
    from raysim.backends.capacity import Capacity
    from raysim.config.schema import ExperimentConfig

P = TypeVar("P", bound="OfRuns")


class OfRuns(InProcesses):
    """Where runs run."""

    grid: ClassVar = frozenset({"workers", "address", "tracker"})
    backend: Literal["ray", "inprocess"] | None = Field(
        "ray", description="inprocess: each run in a process, no Ray"
    )
    address: str | None = Field(
        None, description="of a Ray cluster that is up; default: a new one for all runs"
    )
    workers: Count = Field(0, description="runs at a time; 0: as many as there is room for")

    tracker: TrackerName | None = Field(
        None, description="log every run's rounds as they end, to files in its folder"
    )

    @field_validator("tracker")
    @classmethod
    def _installed(cls, value: TrackerName | None) -> TrackerName | None:
        require(value)
        return value

    @model_validator(mode="after")
    def _an_address_is_of_a_cluster(self) -> Self:
        if self.where == "inprocess" and self.address is not None:
            raise ConfigError("address", "belongs to backend ray", self.address)
        return self

    @property
    def where(self) -> Literal["ray", "inprocess"]:
        """The backend, once what follows from other fields is decided."""
        return self.backend or "ray"


@contextlib.contextmanager
def placed(plan: P, config: ExperimentConfig) -> Iterator[P]:
    """One cluster for all runs, and as many runs at a time as it has room for; the plan says both. config: one of the runs'."""
    if plan.where == "inprocess":
        room = max(1, len(os.sched_getaffinity(0)) // config.resources.threads)
        yield plan.model_copy(update={"workers": plan.workers or room})
        return
    from raysim.backends import ray_connection

    with ray_connection.connected(plan.address):
        import ray

        address = plan.address or ray.get_runtime_context().gcs_address
        room = room_for(config, ray_connection.capacity())
        yield plan.model_copy(update={"workers": plan.workers or room, "address": address})


def room_for(config: ExperimentConfig, capacity: Capacity) -> int:
    """How many runs of this configuration a cluster has room for at a time: by the CPUs that their client actors work on and
    one for the defense's tasks, and by the GPUs that they reserve.
    """
    from raysim.composition.resources import client_actors

    actors = client_actors(config, capacity)
    cpus = max(actors.count * max(actors.cpus, config.resources.threads), 1) + 1
    room = capacity.cpus / cpus
    if actors.gpus:
        room = min(room, capacity.gpus / (actors.count * actors.gpus))
    return max(1, int(room + 1e-9))
