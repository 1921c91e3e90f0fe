"""Where the work runs: the contract of a backend, and the one that needs nothing but this process.

The engine, the defenses and the attacks name a stage, a function and its arguments; a backend decides
which process does it. A *reference* is whatever `put` or a kept result returned: opaque, cheap to hold,
resolved to its value when it is a task's argument. Both backends run the same functions on the same
arguments and return results in the order of the items, so their answers agree byte for byte.
"""

from __future__ import annotations

import ctypes
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar, cast, overload

import numpy as np

from raysim.backends import devices
from raysim.backends.telemetry import Span, Telemetry, measured
from raysim.errors import RaysimError, RunError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

    from raysim.backends.gathering import Gathering

T = TypeVar("T")

Reference = object
"""An opaque handle of a published value or of a kept result, resolved to the value when it is a task's argument."""
Kept = tuple[tuple[Reference, ...], Any]
"""What a task left behind (references, in the order its function returned them) and its small answer, whose type is the function's."""
Begun = object
"""A task under way: what `begin` returned, for `finish`."""


@dataclass(frozen=True)
class Needs:
    """What one task reserves while it runs: CPU cores, share of a GPU, bytes of memory (0 = unstated).

    accelerated: the function computes on a GPU where the backend has one for it (`devices.here` tells it), and where it
    has none as if this were not said. Unlike `gpus` it reserves nothing.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory: int = 0
    accelerated: bool = False


ACCELERATED = Needs(accelerated=True)
"""The needs of a task that computes on a GPU if there is one."""


class Place(TypedDict):
    """Where one process hosts clients: node, process, the GPUs it was assigned, and the device it computes on."""

    node: str
    pid: int
    gpus: list[int] | list[str]
    device: str
    model: str
    reason: NotRequired[str]
    """Why the device is not one of the GPUs."""


class Backend(ABC):
    """Runs tasks and hosts the clients.

    workers: how many tasks can run at the same time. hosts: how many processes host clients. Answers are `Any` where
    what is called is named or was begun before: whoever asks knows what it answers.
    """

    workers: int
    hosts: int
    telemetry: Telemetry

    @abstractmethod
    def put(self, value: object) -> Reference:
        """Publish a value once, for any number of tasks."""

    @abstractmethod
    def get(self, reference: Reference) -> Any:
        """The value behind a reference, in this process; of whatever type was put there."""

    @overload
    def map(
        self, stage: str, fn: Callable[..., T], items: Sequence[tuple[object, ...]], *, needs: Needs = ...
    ) -> list[T]: ...

    @overload
    def map(
        self,
        stage: str,
        fn: Callable[..., Sequence[object]],
        items: Sequence[tuple[object, ...]],
        *,
        keep: int,
        needs: Needs = ...,
    ) -> list[Kept]: ...

    @abstractmethod
    def map(
        self,
        stage: str,
        fn: Callable[..., object],
        items: Sequence[tuple[object, ...]],
        *,
        keep: int = 0,
        needs: Needs = Needs(),
    ) -> list[Any]:
        """Run fn(*item) for every item, one task each, and return the answers in the items' order.

        keep: the function returns a tuple of keep + 1 values; the first `keep` stay where they were made
        and come back as references: the result is then a list of `Kept`.
        """

    def run(self, stage: str, fn: Callable[..., T], *args: object, needs: Needs = Needs()) -> T:
        """Run fn(*args) as one task."""
        return self.map(stage, fn, [args], needs=needs)[0]

    @abstractmethod
    def start_clients(self, make_host: Callable[..., object], args: tuple[object, ...]) -> None:
        """Bring up the processes that host clients; each calls make_host(*args) once."""

    @abstractmethod
    def call_clients(
        self,
        stage: str,
        method: str,
        items: Sequence[tuple[object, ...]],
        *,
        keep: int = 0,
        then: Callable[[int, Kept], None] | None = None,
        limits_s: Sequence[float] | None = None,
        work: Sequence[float] | None = None,
        near: Sequence[str] = (),
    ) -> list[Any]:
        """Call a method of a client host for every item, like `map`.

        near: the node where what each reads lies on disk, if nodes hold different things; an idle host takes others, too.
        then: called in this process with (item number, its result) as soon as that is there, in any order; not
        for an item whose host failed too often. limits_s: seconds after which the host of an item's call is taken to
        hang, and is ended where it is a process of its own. work: what is known of how long each takes, in any unit: the
        longest are begun first, so that short ones fill the end (Graham 1969). The results do not depend on it.
        """

    @abstractmethod
    def client_places(self) -> list[Place]:
        """Where clients are hosted, for environment.json: node, process, GPUs, device, and why it is not a GPU."""

    @abstractmethod
    def begin(
        self, stage: str, number: int, fn: Callable[..., object], *args: object, needs: Needs = Needs()
    ) -> Begun:
        """Start fn(*args) as task `number` of a stage without waiting for it."""

    @abstractmethod
    def finish(self, stage: str, begun: Sequence[Begun]) -> list[Any]:
        """The answers of tasks that were begun, None for those that failed: they are not tried again."""

    def homes(self, references: Sequence[Reference]) -> list[str]:
        """Where each of these lies, by the name of a node: of several, the one that holds most of them all, then this process's."""
        return [""] * len(references)

    def gathering(self, shards: int, most_bytes: int) -> Gathering | None:
        """What brings the tiles of `shards` column shards together as rows land, for one round (see gathering.py); None where
        they lie together anyway. most_bytes: under way at a time. What it has begun is for `finish`.
        """
        return None

    def broadcast(self, published: Reference) -> None:  # noqa: B027 (in one process it is everywhere)
        """Begin to bring a published value to the nodes that host clients. It is counted by the tasks that read it there."""

    def recount(self, left: Sequence[Reference] = ()) -> None:  # noqa: B027 (what most backends have never changes)
        """Count the machines again, between rounds: use those that have joined, leave those that are about to go, and take
        what is still needed (left) of what tasks left behind off them."""

    def apart(self) -> Backend | None:
        """This backend for a second thread, with telemetry of its own; None if nothing can overlap."""
        return None

    def close(self) -> None:  # noqa: B027 (most backends have nothing to close)
        """Let go of processes and references."""


@dataclass(frozen=True)
class Held:
    """A reference of the in-process backend."""

    value: object


class InProcessBackend(Backend):
    """Everything in this process, one task after the other; needs no Ray.

    threads: of BLAS and torch while a task runs; the process's own setting is put back afterwards. device: what
    clients train on; accelerator: what tasks with `Needs.accelerated` compute on.
    """

    def __init__(
        self,
        telemetry: Telemetry | None = None,
        threads: int = 1,
        *,
        device: str = devices.CPU,
        accelerator: str = devices.CPU,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self.workers = self.hosts = 1
        self.device, self.accelerator = device, accelerator
        self._limit = ThreadLimit(threads)
        self._host: object = None

    def put(self, value: object) -> Held:
        return Held(frozen(value))

    def get(self, reference: Reference) -> Any:
        return reference.value if isinstance(reference, Held) else reference

    def map(
        self,
        stage: str,
        fn: Callable[..., object],
        items: Sequence[tuple[object, ...]],
        *,
        keep: int = 0,
        needs: Needs = Needs(),
    ) -> list[Any]:
        device = self.accelerator if needs.accelerated else devices.CPU
        return self._one_by_one(stage, fn, items, keep, device)

    def start_clients(self, make_host: Callable[..., object], args: tuple[object, ...]) -> None:
        with devices.working_on(self.device):
            self._host = make_host(*(self.get(argument) for argument in args))

    def client_places(self) -> list[Place]:
        here, device = self.telemetry.node, self.device
        return [Place(node=here, pid=os.getpid(), gpus=[], device=device, model=devices.name(device))]

    def call_clients(
        self,
        stage: str,
        method: str,
        items: Sequence[tuple[object, ...]],
        *,
        keep: int = 0,
        then: Callable[[int, Kept], None] | None = None,
        limits_s: Sequence[float] | None = None,
        work: Sequence[float] | None = None,
        near: Sequence[str] = (),
    ) -> list[Any]:
        return self._one_by_one(stage, getattr(self._host, method), items, keep, self.device, then)

    def begin(
        self, stage: str, number: int, fn: Callable[..., object], *args: object, needs: Needs = Needs()
    ) -> Begun:
        """Does the task at once."""
        resolved = tuple(self.get(argument) for argument in args)
        device = self.accelerator if needs.accelerated else devices.CPU
        try:
            with self._limit(), devices.working_on(device):
                result, span = measured(stage, number, self.telemetry.node, fn, resolved)
        except Exception:
            return None
        return frozen(result), span

    def finish(self, stage: str, begun: Sequence[Begun]) -> list[Any]:
        finished = cast("Sequence[tuple[object, Span] | None]", begun)
        with self.telemetry.stage(stage) as meter:
            meter.tasks.extend(done[1] for done in finished if done is not None)
        return [None if done is None else done[0] for done in finished]

    def _one_by_one(
        self,
        stage: str,
        fn: Callable[..., object],
        items: Sequence[tuple[object, ...]],
        keep: int,
        device: str,
        then: Callable[[int, Kept], None] | None = None,
    ) -> list[Any]:
        results: list[Any] = []
        self.telemetry.on_progress(stage, 0, len(items))
        with self.telemetry.stage(stage) as meter, self._limit():
            meter.inside = True
            for number, item in enumerate(items):
                args = tuple(self.get(argument) for argument in item)
                with located(stage), devices.working_on(device):
                    result, span = measured(stage, number, self.telemetry.node, fn, args)
                meter.tasks.append(span)
                results.append(self._keep(result, keep))
                self.telemetry.on_progress(stage, number + 1, len(items))
                if then is not None:
                    then(number, results[-1])
        return results

    def _keep(self, result: object, keep: int) -> object:
        """The answer, its arrays read-only as those that come out of Ray's object store."""
        if not keep:
            return frozen(result)
        *kept, answer = cast("Sequence[object]", result)
        return tuple(self.put(value) for value in kept), frozen(answer)


@contextmanager
def located(stage: str, method: str = "") -> Iterator[None]:
    """Any failure inside becomes, or stays, an error that names the stage (and the method at work)."""
    try:
        yield
    except RunError as error:
        raise error.located(stage=stage) from error
    except RaysimError:
        raise
    except (Exception, SystemExit) as error:  # an exit would look like a crash of its process
        problem = f"{type(error).__name__}: {error}"
        raise RunError(f"{method}: {problem}" if method else problem, stage=stage) from error


def frozen(value: Any) -> Any:
    """The value, of the type it has, with its arrays marked read-only, as they would be in Ray's object store."""
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    if type(value) in (list, tuple):
        return type(value)(frozen(item) for item in value)
    if type(value) is dict:
        return {key: frozen(item) for key, item in value.items()}
    return value


class ThreadLimit:
    """Limits BLAS, OpenMP and torch to `threads` inside `with`: sums then have one order everywhere.

    Gradients are recorded inside as in a new worker process, whatever mode of torch the caller is in.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The limit, for the length of the block."""
        import torch

        before = torch.get_num_threads()
        with thread_pools(len(sys.modules)).limit(limits=self.threads):
            torch.set_num_threads(self.threads)
            try:
                with torch.inference_mode(False), torch.enable_grad():
                    yield
            finally:
                torch.set_num_threads(before)


@lru_cache(maxsize=1)
def thread_pools(modules: int) -> ThreadpoolController:
    """Those of the loaded libraries. Looking for them takes milliseconds: done again when the number of modules is another."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@lru_cache(maxsize=1)
def prepare_worker(threads: int) -> None:
    """Set up a worker process for good, once: its threads, also in libraries it loads later, and its memory."""
    from threadpoolctl import threadpool_limits

    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[variable] = str(threads)
    threadpool_limits(limits=threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
    keep_freed_memory()


def keep_freed_memory(most_bytes: int = 2**28) -> None:
    """Let this process keep up to `most_bytes` of freed memory instead of handing it back to the kernel at once.

    A training step allocates and frees the same activations again and again; faulting their pages in anew each
    time cost up to half of a step here. Does nothing if the C library is not glibc.
    """
    try:
        glibc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    trim_threshold, mmap_threshold, largest_heap_block = -1, -3, 2**25
    glibc.mallopt(trim_threshold, most_bytes)
    glibc.mallopt(mmap_threshold, largest_heap_block)


BackendName = Literal["ray", "inprocess"]
