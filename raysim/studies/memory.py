"""Memory while something runs, sampled from outside of the work: three quantities that are not the same.

resident, private   of one process: all its resident pages; those outside of shared memory. What a task takes (MemoryWatch)
PSS                 of this process and all it started: shared pages counted once. What a run takes (TotalMemory)
unshared            of each node's worker processes: resident minus shared pages; beside it the node's object
                    store, and what that spilled to disk. What a cluster needs (LocalWatch, RayWatch)
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from raysim.backends.base import Backend, InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE

PROCESS_PAUSE_S = 0.002
TOTAL_PAUSE_S = 0.2
NODE_PAUSE_S = 0.005
SPILL_PAUSE_S = 0.05
"""Between two looks: at this process and its workers, at the PSS of all, at a node's workers, at a spill folder."""
REFRESH_S = 0.25
"""Between two lists of which processes a node has."""
SETTLE_LIMIT_S = 10.0
SERVICES = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own processes on a node, which do no work of ours."""


class Sampler:
    """Calls `look` in a thread, at once and then after every pause, and once more when it is stopped."""

    def __init__(self, look: Callable[[], None], pause_s: float) -> None:
        self._look, self._pause_s = look, pause_s
        self._over = threading.Event()
        look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The last look."""
        self._over.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(self._pause_s):
            self._look()


@dataclass(frozen=True)
class Resident:
    """Bytes of one process: all resident memory, and the private part (without the object store's pages)."""

    whole: int
    private: int


class MemoryWatch:
    """Samples this process and its Ray workers while a `with` block runs.

    peak: the largest resident memory of any one process, what libraries and every tile it ever mapped take included.
    growth: the most that any one process's private memory grew over what it held when the first block began; one watch
    may have several blocks.
    """

    def __init__(self) -> None:
        self.peak = self.growth = 0
        self._before: dict[int, Resident] = {}

    def __enter__(self) -> MemoryWatch:
        if not self._before:
            self._before = {pid: found for pid in own_processes() if (found := resident(pid))}
        self._sampler = Sampler(self._look, PROCESS_PAUSE_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._sampler.stop()

    def _look(self) -> None:
        for pid, before in self._before.items():
            now = resident(pid)
            if now is not None:
                self.peak = max(self.peak, now.whole)
                self.growth = max(self.growth, now.private - before.private)


def task_memory(backend: Backend, work: Callable[[MemoryWatch], object]) -> tuple[int, int]:
    """(Largest resident memory of any process, most private memory that one took plus the tiles of its largest task).

    work: is given the watch, and enters it where what counts begins.
    """
    gc.collect()
    backend.telemetry.drain()
    watch = MemoryWatch()
    work(watch)
    tasks = [span.bytes_in for span in backend.telemetry.drain() if span.task != WHOLE_STAGE]
    mapped = 0 if isinstance(backend, InProcessBackend) else max(tasks, default=0)
    return watch.peak, watch.growth + mapped


class TotalMemory:
    """Samples the proportional set size (shared pages counted once) of this process and its descendants.

    `with TotalMemory() as watch: ...`, then `watch.peak_bytes` is the largest total seen.
    """

    def __init__(self, pause_s: float = TOTAL_PAUSE_S) -> None:
        self.pause_s = pause_s
        self.peak_bytes = 0

    def __enter__(self) -> TotalMemory:
        self._sampler = Sampler(self._look, self.pause_s)
        return self

    def __exit__(self, *error: object) -> None:
        self._sampler.stop()

    def _look(self) -> None:
        self.peak_bytes = max(self.peak_bytes, total_pss())


@dataclass(frozen=True)
class NodeMemory:
    """One node: peak of all workers together and of the largest, and its object store afterwards, in bytes."""

    worker_bytes: int
    largest_worker_bytes: int
    store_bytes: int


class Watch(Protocol):
    """What looks at the nodes that a measurement runs on."""

    @contextlib.contextmanager
    def memory(self) -> Iterator[list[NodeMemory]]:
        """Watch while the block runs; the list is filled after it, the head first."""

    def spilled(self) -> int:
        """Bytes that all object stores together have written to disk since the watch began."""

    def settle(self) -> None:
        """Wait until objects that nobody refers to are gone."""


class ProcessPeaks:
    """Samples the unshared resident memory (RSS minus shared pages) of processes."""

    def __init__(self, find: Callable[[], list[psutil.Process]]) -> None:
        self.total = self.largest = 0
        self._find = find
        self._processes, self._known_s = find(), time.monotonic()
        self._sampler = Sampler(self._look, NODE_PAUSE_S)

    def stop(self) -> tuple[int, int]:
        """(Peak of the sum, peak of the largest) in bytes."""
        self._known_s = 0.0  # the last look is at those of now
        self._sampler.stop()
        return self.total, self.largest

    def _look(self) -> None:
        if time.monotonic() - self._known_s > REFRESH_S:
            self._processes, self._known_s = self._find(), time.monotonic()
        held = [unshared(process) for process in self._processes]
        self.total = max(self.total, sum(held))
        self.largest = max(self.largest, *held, 0)


class LocalWatch:
    """This process alone, for the in-process backend: the matrix is in its memory, and there is no store."""

    @contextlib.contextmanager
    def memory(self) -> Iterator[list[NodeMemory]]:
        """See Watch."""
        found: list[NodeMemory] = []
        peaks = ProcessPeaks(lambda: [psutil.Process()])
        try:
            yield found
        finally:
            found.append(NodeMemory(*peaks.stop(), 0))

    def spilled(self) -> int:
        """See Watch."""
        return 0

    def settle(self) -> None:
        """See Watch."""
        gc.collect()


class SpillFolder:
    """Adds up what an object store writes to its folder on disk.

    Ray gives no count of spilled bytes to a process without its dashboard. A spill file has a name of its own
    and is written once, so the sizes of all files ever seen add up to the count; one that comes and goes between two
    looks is missed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        Sampler(self._look, SPILL_PAUSE_S)

    def total(self) -> int:
        """Bytes written so far."""
        self._look()
        return sum(self._sizes.copy().values())

    def _look(self) -> None:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as files:
            for file in files:
                with contextlib.suppress(FileNotFoundError):
                    self._sizes[file.name] = max(self._sizes.get(file.name, 0), file.stat().st_size)


class NodeWatch:
    """An actor on a node: watches the worker processes of its raylet, and the folder its store spills to.

    The folder is Ray's default, in the session's directory; spilling to another is not seen.
    """

    def __init__(self, others: list[int]) -> None:
        import ray

        node = ray._private.worker.global_worker.node
        assert node is not None, "an actor has one"
        name = f"ray_spilled_objects_{ray.get_runtime_context().get_node_id()}"
        self._spills = SpillFolder(Path(node.get_session_dir_path()) / name)
        self._others = others
        self._peaks: ProcessPeaks | None = None

    def start(self) -> None:
        """Watch memory from now on."""
        self._peaks = ProcessPeaks(self._workers)

    def stop(self) -> tuple[int, int]:
        """What ProcessPeaks.stop says."""
        assert self._peaks is not None, "start comes first"
        return self._peaks.stop()

    def spilled(self) -> int:
        """Bytes written to disk so far."""
        return self._spills.total()

    def _workers(self) -> list[psutil.Process]:
        raylet = psutil.Process(os.getppid())
        found = [process for process in raylet.children() if _is_worker(process)]
        return found + [psutil.Process(pid) for pid in self._others if psutil.pid_exists(pid)]


class RayWatch:
    """A NodeWatch on every node of the connected cluster; this process counts as one of the head's workers."""

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = ray.get_runtime_context().get_node_id()
        alive = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        self.nodes = sorted(alive, key=lambda node: node != here)
        actor: Any = ray.remote(num_cpus=0)(NodeWatch)
        self._actors = []
        for node in self.nodes:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            others = [os.getpid()] if node == here else []
            self._actors.append(actor.options(scheduling_strategy=strategy).remote(others))
        self.spilled()  # all of them are up
        self._at_rest = sum(store_bytes().values())

    @contextlib.contextmanager
    def memory(self) -> Iterator[list[NodeMemory]]:
        """See Watch."""
        import ray

        found: list[NodeMemory] = []
        ray.get([actor.start.remote() for actor in self._actors])
        try:
            yield found
        finally:
            peaks = ray.get([actor.stop.remote() for actor in self._actors])
            stores = store_bytes()
            for node, (total, largest) in zip(self.nodes, peaks, strict=True):
                found.append(NodeMemory(total, largest, stores[node]))

    def spilled(self) -> int:
        """See Watch."""
        import ray

        return sum(ray.get([actor.spilled.remote() for actor in self._actors]))

    def settle(self) -> None:
        """See Watch; gives up after SETTLE_LIMIT_S."""
        gc.collect()
        enough, deadline = self._at_rest + 2**20, time.monotonic() + SETTLE_LIMIT_S
        while sum(store_bytes().values()) > enough and time.monotonic() < deadline:
            time.sleep(0.1)


def give_back() -> None:
    """What this process freed goes back to the system, so that what is measured next does not begin with it.

    glibc keeps freed arrays up to 32 MiB for itself: gigabytes after tiles of a large K x K. Other C libraries are left alone.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def own_processes() -> list[int]:
    """This process and the Ray workers it started."""
    this = psutil.Process()
    workers = [child.pid for child in this.children(recursive=True) if _name(child).startswith("ray::")]
    return [this.pid, *workers]


def resident(pid: int) -> Resident | None:
    """What a process holds now; None if it is gone, or if the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssShmem")))
    if len(found) < 2:
        return None
    whole, shared = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "RssShmem"))
    return Resident(whole, whole - shared)


def total_pss() -> int:
    """Bytes of this process and its descendants now; processes that end meanwhile count nothing."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            total += process.memory_full_info().pss
    return total


def unshared(process: psutil.Process) -> int:
    """Resident bytes that no other process shares in; 0 for one that is gone."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def store_bytes() -> dict[str, int]:
    """Bytes in use of every node's object store, by node id; some tenths of a second old."""
    from ray._private.state import available_resources_per_node, total_resources_per_node

    name, free = "object_store_memory", available_resources_per_node()
    return {
        node: max(0, int(total.get(name, 0) - free.get(node, {}).get(name, 0)))
        for node, total in total_resources_per_node().items()
    }


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a Ray worker, and not this one."""
    name = _name(process)
    return name.startswith("ray::") and not name.startswith(SERVICES) and process.pid != os.getpid()
