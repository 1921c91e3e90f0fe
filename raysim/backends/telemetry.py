"""Stages and spans: what was done, where, for how long, and how many bytes it took.

A *stage* is a named step of a round ("train", "cam", "gram"); a *task* is one call of it on one node.
Each task measures itself where it runs (`measured`); the stage is measured where it was started, so its
span (task = -1) includes waiting, scheduling and transfer.

Every span says who caused the work: the *owner* is whoever has the word when the stage is started (`Telemetry.owned`).
Local training is the clients', compromised ones included: a host trains them in one block. What an attack does there
beyond one training is divided off (`Telemetry.divide`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np

from raysim.backends import devices
from raysim.errors import RunError

T = TypeVar("T")

WHOLE_STAGE = -1

Owner = Literal["client", "attack", "defense", "engine"]
"""Who caused the work of a stage: local training, the attack's crafting, the defense, or the simulator itself."""

OWNERS: tuple[Owner, ...] = get_args(Owner)


@dataclass(frozen=True)
class Span:
    """One measured stage (task = -1) or task. Times in seconds; `start_s` since the epoch."""

    stage: str
    task: int
    node: str
    start_s: float
    wall_s: float
    cpu_s: float
    bytes_in: int
    bytes_out: int
    peak_memory_bytes: int
    retries: int = 0
    bytes_moved: int = 0
    """Bytes of arrays in the arguments that lay on other nodes and were brought to the task's."""
    bytes_returned: int = 0
    """Bytes of arrays in the answer that were brought from the task's node to the server's."""
    bytes_spilled: int = 0
    """Of a whole stage: bytes that object stores wrote to disk meanwhile, for want of memory."""
    bytes_restored: int = 0
    """Bytes of arguments that had been written to disk before the task was begun, and are read back if no copy is left."""
    pid: int = 0
    """The process that it ran in; of a whole stage, the server's."""
    owner: Owner = "engine"
    """Who caused the work."""
    device: str = devices.CPU
    """What it ran on: `cpu`, `cuda:0`; of a whole stage, those of its tasks, joined by +."""
    peak_gpu_bytes: int | None = None
    """Peak bytes of the process's tensors on that GPU; None on a CPU."""


@dataclass
class Telemetry:
    """Collects the spans of a run; the round loop drains them once a round."""

    node: str = field(default_factory=platform.node)
    spans: list[Span] = field(default_factory=list)
    round: int = 0
    """The round under way."""
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None
    """Told (stage, tasks done, tasks in all) as work proceeds."""
    owner: Owner = "engine"
    """Who has the word; set by `owned`."""
    _covered: tuple[float, float] = (0.0, 0.0)
    """Wall and processor seconds of this process that spans account for."""

    @contextlib.contextmanager
    def owned(self, owner: Owner, rest: str = "") -> Iterator[None]:
        """The stages started inside are `owner`'s.

        rest: the name of one more span, for the time inside that no stage of its own covers, so that the spans of a
        call add up to all of it.
        """
        before, covered = self.owner, self._covered
        start, clock, cpu = time.time(), time.perf_counter(), time.process_time()
        self.owner = owner
        try:
            yield
        finally:
            self.owner = before
            if rest:
                wall, own_cpu = time.perf_counter() - clock, time.process_time() - cpu
                inside = self._covered[0] - covered[0], self._covered[1] - covered[1]
                self._covered = covered[0] + wall, covered[1] + own_cpu
                self.spans.append(
                    Span(
                        stage=rest,
                        task=WHOLE_STAGE,
                        node=self.node,
                        start_s=start,
                        wall_s=max(wall - inside[0], 0.0),
                        cpu_s=max(own_cpu - inside[1], 0.0),
                        bytes_in=0,
                        bytes_out=0,
                        peak_memory_bytes=peak_memory_bytes(),
                        pid=os.getpid(),
                        owner=owner,
                    )
                )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageMeter]:
        """Measure a stage as the server sees it; the tasks' own spans are added to `meter`."""
        meter, covered = StageMeter(), self._covered
        start, clock, cpu = time.time(), time.perf_counter(), time.process_time()
        try:
            yield meter
        finally:
            wall, own_cpu = time.perf_counter() - clock, time.process_time() - cpu
            self._covered = covered[0] + wall, covered[1] + own_cpu
            tasks = [replace(span, owner=self.owner) for span in meter.tasks]
            self.spans.append(
                Span(
                    stage=name,
                    task=WHOLE_STAGE,
                    node=self.node,
                    start_s=start,
                    wall_s=wall,
                    cpu_s=own_cpu + sum(span.cpu_s for span in tasks if not meter.inside),
                    bytes_in=sum(span.bytes_in for span in tasks),
                    bytes_out=sum(span.bytes_out for span in tasks),
                    peak_memory_bytes=max([peak_memory_bytes(), *(s.peak_memory_bytes for s in tasks)]),
                    retries=sum(span.retries for span in tasks),
                    bytes_moved=sum(span.bytes_moved for span in tasks),
                    bytes_returned=sum(span.bytes_returned for span in tasks),
                    bytes_spilled=meter.spilled_bytes,
                    bytes_restored=sum(span.bytes_restored for span in tasks),
                    pid=os.getpid(),
                    owner=self.owner,
                    device="+".join(sorted({span.device for span in tasks})) or devices.CPU,
                    peak_gpu_bytes=max(
                        (s.peak_gpu_bytes for s in tasks if s.peak_gpu_bytes is not None), default=None
                    ),
                )
            )
            self.spans.extend(tasks)

    def divide(self, stage: str, part: str, owner: Owner, task_s: float) -> None:
        """Take from the newest span of a whole stage what `task_s` of its tasks' seconds are, as a stage `part` of `owner`'s.

        For work of two owners in the same tasks: the stage as the server saw it is divided as its tasks' seconds were.
        """
        place = max(n for n, span in enumerate(self.spans) if (span.stage, span.task) == (stage, WHOLE_STAGE))
        whole, every = self.spans[place], sum(span.wall_s for span in self.spans[place + 1 :])
        share = min(max(task_s / every, 0.0), 1.0) if every else 0.0
        wall, cpu = whole.wall_s * share, whole.cpu_s * share
        self.spans[place] = replace(whole, wall_s=whole.wall_s - wall, cpu_s=whole.cpu_s - cpu)
        apart = replace(whole, stage=part, owner=owner, wall_s=wall, cpu_s=cpu)
        apart = replace(apart, bytes_moved=0, bytes_returned=0, bytes_spilled=0, bytes_restored=0)
        self.spans.append(replace(apart, bytes_in=0, bytes_out=0, retries=0))

    def drain(self) -> list[Span]:
        """The spans since the last call."""
        spans, self.spans = self.spans, []
        return spans


@dataclass
class StageMeter:
    """What a running stage knows of its tasks. `inside`: they ran in this very process; spilled_bytes: to disk, meanwhile."""

    tasks: list[Span] = field(default_factory=list)
    inside: bool = False
    spilled_bytes: int = 0


def measured(
    stage: str, task: int, node: str, fn: Callable[..., T], args: tuple[object, ...], retries: int = 0
) -> tuple[T, Span]:
    """Run fn(*args) and measure it in this process. A SystemExit becomes a RunError: it would look like a crash."""
    reset_peak_memory()
    devices.reset_peak_bytes()
    start, clock, cpu = time.time(), time.perf_counter(), time.process_time()
    try:
        result = fn(*args)
    except SystemExit as error:
        raise RunError(f"SystemExit: {error}") from error
    wall, cpu_used = time.perf_counter() - clock, time.process_time() - cpu
    span = Span(
        stage=stage,
        task=task,
        node=node,
        start_s=start,
        wall_s=wall,
        cpu_s=cpu_used,
        bytes_in=num_bytes(args),
        bytes_out=num_bytes(result),
        peak_memory_bytes=peak_memory_bytes(),
        retries=retries,
        pid=os.getpid(),
        device=devices.here(),
        peak_gpu_bytes=devices.peak_bytes(),
    )
    return result, span


def num_bytes(value: object) -> int:
    """Bytes of the arrays inside tuples, lists and dicts (what travels; small Python objects count 0)."""
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, dict):
        return sum(num_bytes(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(num_bytes(item) for item in value)
    return 0


def peak_memory_bytes() -> int:
    """Peak resident memory of this process since `reset_peak_memory` (since its start where unsupported)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    scale = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def reset_peak_memory() -> None:
    """Start a new peak for this process, where the kernel offers that (Linux: clear_refs)."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
