"""Memory while a defense works, node by node: of worker processes, of object stores, and what these spilled to disk."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

PAUSE_S = 0.005
"""Between two looks at the processes."""
REFRESH_S = 0.25
"""Between two lists of which processes there are."""
SPILL_PAUSE_S = 0.05
"""Between two looks at the folder that an object store spills to."""
SETTLE_LIMIT_S = 10.0
SERVICES = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's own processes on a node, which do no work of ours."""


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
    """Samples the unshared resident memory (RSS minus shared pages) of processes, in a thread."""

    def __init__(self, find: Callable[[], list[psutil.Process]]) -> None:
        self.total = 0
        self.largest = 0
        self._find = find
        self._over = threading.Event()
        self._look(find())
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[int, int]:
        """(Peak of the sum, peak of the largest) in bytes."""
        self._over.set()
        self._thread.join()
        self._look(self._find())
        return self.total, self.largest

    def _watch(self) -> None:
        processes, known_s = self._find(), time.monotonic()
        while not self._over.wait(PAUSE_S):
            if time.monotonic() - known_s > REFRESH_S:
                processes, known_s = self._find(), time.monotonic()
            self._look(processes)

    def _look(self, processes: list[psutil.Process]) -> None:
        held = [_unshared(process) for process in processes]
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
            total, largest = peaks.stop()
            found.append(NodeMemory(total, largest, 0))

    def spilled(self) -> int:
        """See Watch."""
        return 0

    def settle(self) -> None:
        """See Watch."""
        gc.collect()


class SpillFolder:
    """Adds up what an object store writes to its folder on disk, in a thread.

    Ray gives no count of spilled bytes to a process without its dashboard. A spill file has a name of its own
    and is written once, so the sizes of all files ever seen add up to the count; one that comes and goes between two
    looks is missed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        threading.Thread(target=self._watch, daemon=True).start()

    def total(self) -> int:
        """Bytes written so far."""
        self._look()
        return sum(self._sizes.copy().values())

    def _watch(self) -> None:
        while True:
            self._look()
            time.sleep(SPILL_PAUSE_S)

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
            for node, peak in zip(self.nodes, peaks, strict=True):
                total, largest = peak
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


def store_bytes() -> dict[str, int]:
    """Bytes in use of every node's object store, by node id; some tenths of a second old."""
    from ray._private.state import available_resources_per_node, total_resources_per_node

    name, free = "object_store_memory", available_resources_per_node()
    return {
        node: max(0, int(total.get(name, 0) - free.get(node, {}).get(name, 0)))
        for node, total in total_resources_per_node().items()
    }


def _unshared(process: psutil.Process) -> int:
    """Resident bytes that no other process shares in; 0 for one that is gone."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def _is_worker(process: psutil.Process) -> bool:
    """Whether it is a Ray worker, and not this one."""
    try:
        name = process.name()
    except psutil.Error:
        return False
    return name.startswith("ray::") and not name.startswith(SERVICES) and process.pid != os.getpid()
