"""What runs in Ray's worker processes: one task, and the actor that stays on its device, around a client host or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import cast

import ray

from raysim.backends import devices
from raysim.backends.base import Place, prepare_worker
from raysim.backends.telemetry import Span, measured, num_bytes
from raysim.errors import ConfigError, DataError, RaysimError


class RayActor:
    """What runs in an actor: one client host, or none, on one device that was decided there."""

    def __init__(
        self,
        threads: int,
        device: devices.Wanted,
        place: int,
        make_host: Callable[..., object],
        *args: object,
    ) -> None:
        prepare_worker(threads)
        self.node, self.gpus = node_name(), ray.get_gpu_ids()
        self.refused: RaysimError | None = None
        self.wanted, self.device = device, devices.CPU
        try:
            self.device = devices.decided(device, place)
            with devices.working_on(self.device):
                self.host = make_host(*args)
        except DataError as error:
            self.refused = DataError(f"node {self.node}: {error}")
        except ConfigError as error:  # said by whoever asks, because one raised here would look like a crash
            self.refused = error

    def call(
        self, stage: str, method: str, number: int, retries: int, keep: int, *args: object
    ) -> tuple[object, ...]:
        """A method of the host; returns what `handed_back` says."""
        return self.do(stage, getattr(self.host, method), number, retries, keep, *args)

    def do(
        self, stage: str, fn: Callable[..., object], number: int, retries: int, keep: int, *args: object
    ) -> tuple[object, ...]:
        """fn(*args) on this actor's device; returns what `handed_back` says."""
        if self.refused is not None:
            raise self.refused
        with devices.working_on(self.device):
            return handed_back(*measured(stage, number, self.node, fn, args, retries), keep)

    def place(self) -> Place:
        """Where this actor runs, the GPUs it was assigned, its device, and why that is not one of them."""
        if self.refused is not None:
            raise self.refused
        found = Place(
            node=self.node,
            pid=os.getpid(),
            gpus=self.gpus,
            device=self.device,
            model=devices.name(self.device),
        )
        if self.gpus and self.device == devices.CPU:
            chosen = self.wanted == devices.CPU  # then nobody need ask torch, which takes a second to load
            found["reason"] = "resources.device is cpu" if chosen else devices.obstacle()
        return found


def run_task(
    fn: Callable[..., object],
    stage: str,
    number: int,
    retries: int,
    keep: int,
    threads: int,
    *args: object,
) -> tuple[object, ...]:
    """One task; returns what `handed_back` says."""
    prepare_worker(threads)
    return handed_back(*measured(stage, number, node_name(), fn, args, retries), keep)


def handed_back(result: object, span: Span, keep: int) -> tuple[object, ...]:
    """What a task returns to Ray: its kept values, its answer, and (the span, bytes of each kept value)."""
    *kept, answer = cast("Sequence[object]", result) if keep else (result,)
    return (*kept, answer, (span, [num_bytes(value) for value in kept]))


def handed_on(value: object) -> tuple[object, None]:
    """What a task does that takes a value to where it runs."""
    return value, None


def node_name() -> str:
    """A short name of the Ray node this process runs on."""
    return short_name(ray.get_runtime_context().get_node_id())


def short_name(node_id: str) -> str:
    """A node's name in spans."""
    return node_id[:12]
