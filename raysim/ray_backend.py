"""The backend on Ray: tasks for detection stages, actors that host clients, references in the object store.

Retries are the backend's own, so that they are counted: a task or call whose worker died is started again,
an actor that died is replaced, and a call that keeps failing comes back as None (the round records its
clients as lost). Everything a worker computes is a pure function of its arguments, so doing it twice is safe.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import exceptions as gone
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raysim.backend import Backend, Needs, Reference, located, prepare_worker
from raysim.errors import LostWork, RunError
from raysim.resources import ClientActors
from raysim.telemetry import Telemetry, measured

RETRIES = 3
"""How often one task or call is started again after its worker died."""

TASKS_PER_WORKER = 4
"""Tasks in flight per CPU: enough to hide scheduling, few enough that their results fit the store."""

WORKER_LOST = (
    gone.WorkerCrashedError,
    gone.ActorDiedError,
    gone.ActorUnavailableError,
    gone.NodeDiedError,
    gone.OutOfMemoryError,
)
OBJECT_LOST = (gone.ObjectLostError, gone.OwnerDiedError, gone.ObjectFetchTimedOutError)


class RayBackend(Backend):
    """Work as Ray tasks, clients in Ray actors. Made in the process that owns them: the Server actor."""

    def __init__(
        self,
        actors: ClientActors,
        *,
        workers: int,
        threads: int = 1,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry(node=node_name())
        self.workers = workers
        self.threads = threads
        self._plan = actors
        self._actors: list[Any] = []
        self._make: tuple[Any, ...] = ()
        self._group: PlacementGroup | None = None
        self._task = ray.remote(max_retries=0)(run_task)
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0)(ClientActor)

    def put(self, value: Any) -> Reference:
        return ray.put(value)

    def get(self, reference: Reference) -> Any:
        return ray.get(reference)

    def map(
        self,
        stage: str,
        fn: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        *,
        keep: int = 0,
        needs: Needs = Needs(),
    ) -> list[Any]:
        options: dict[str, Any] = {"num_returns": keep + 2, "num_cpus": needs.cpus, "num_gpus": needs.gpus}
        if needs.memory:
            options["memory"] = needs.memory
        task = self._task.options(**options)
        shipped = ray.put(fn)

        def submit(number: int, retries: int, worker: Any) -> list[Any]:
            return task.remote(shipped, stage, number, retries, keep, self.threads, *items[number])

        free = deque(range(max(1, self.workers * TASKS_PER_WORKER)))
        return self._drive(stage, len(items), keep, free, submit, on_lost=None)

    def start_clients(self, make_host: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._make = (make_host, args)
        if self._plan.cpus or self._plan.gpus:
            bundle = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
            bundles = [{kind: share for kind, share in bundle.items() if share}] * self._plan.count
            self._group = placement_group(bundles, strategy="SPREAD")
            ray.get(self._group.ready())
        nodes = nodes_by_cpu()
        self._actors = [self._start_actor(place, nodes) for place in range(self._plan.count)]
        self.client_places()  # a slow starter would otherwise leave its share of the first round to the others

    def call_clients(
        self, stage: str, method: str, items: Sequence[tuple[Any, ...]], *, keep: int = 0
    ) -> list[Any]:
        def submit(number: int, retries: int, place: int) -> list[Any]:
            call = self._actors[place].call.options(num_returns=keep + 2)
            return call.remote(stage, method, number, retries, keep, *items[number])

        def replace(place: int) -> None:
            ray.kill(self._actors[place])
            self._actors[place] = self._start_actor(place, nodes_by_cpu())

        places = deque(range(len(self._actors)))
        return self._drive(stage, len(items), keep, places, submit, on_lost=replace)

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def client_places(self) -> list[dict[str, Any]]:
        """Node, process and GPUs of every client actor."""
        return ray.get([actor.place.remote() for actor in self._actors])

    def _start_actor(self, place: int, nodes: Sequence[str]) -> Any:
        strategy: Any
        if self._group is not None:
            strategy = PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=place)
        else:
            strategy = NodeAffinitySchedulingStrategy(nodes[place % len(nodes)], soft=False)
        make_host, args = self._make
        options = {"num_cpus": self._plan.cpus, "num_gpus": self._plan.gpus, "scheduling_strategy": strategy}
        return self._actor_class.options(**options).remote(self.threads, make_host, *args)

    def _drive(
        self,
        stage: str,
        count: int,
        keep: int,
        free: deque[Any],
        submit: Callable[[int, int, Any], list[Any]],
        on_lost: Callable[[Any], None] | None,
    ) -> list[Any]:
        """Keep every free place busy until all items are done; the results in item order.

        A lost worker's item is done again. Where places can be replaced (on_lost), an item out of retries is
        None; where they cannot, that is an error.
        """
        results: list[Any] = [None] * count
        waiting = deque((number, 0) for number in range(count))
        running: dict[Any, tuple[int, int, Any, list[Any]]] = {}
        done = 0
        self.telemetry.on_progress(stage, 0, count)
        with self.telemetry.stage(stage) as meter:
            while waiting or running:
                while waiting and free:
                    number, retries = waiting.popleft()
                    place = free.popleft()
                    references = submit(number, retries, place)
                    running[references[-1]] = (number, retries, place, references)
                ready, _ = ray.wait(list(running), num_returns=1)
                number, retries, place, references = running.pop(ready[0])
                try:
                    answer, span = ray.get(references[keep:])
                except WORKER_LOST as error:
                    if on_lost is not None:
                        on_lost(place)
                    free.append(place)
                    if retries < RETRIES:
                        waiting.append((number, retries + 1))
                    elif on_lost is None:
                        raise RunError(f"task {number}: {error}", stage=stage) from error
                    continue
                except OBJECT_LOST as error:
                    raise LostWork(f"task {number}: {error}", stage=stage) from error
                except gone.RayTaskError as error:
                    with located(stage):
                        raise as_own_error(error) from error
                free.append(place)
                meter.tasks.append(span)
                results[number] = (tuple(references[:keep]), answer) if keep else answer
                done += 1
                self.telemetry.on_progress(stage, done, count)
        return results


class ClientActor:
    """A Ray actor around one client host."""

    def __init__(self, threads: int, make_host: Callable[..., Any], *args: Any) -> None:
        prepare_worker(threads)
        self.host = make_host(*args)
        self.node = node_name()

    def call(
        self, stage: str, method: str, number: int, retries: int, keep: int, *args: Any
    ) -> tuple[Any, ...]:
        """The method's kept values, its answer, and the span."""
        result, span = measured(stage, number, self.node, getattr(self.host, method), args, retries)
        return (*result, span) if keep else (result, span)

    def place(self) -> dict[str, Any]:
        """Where this actor runs, and on which GPUs."""
        return {"node": self.node, "pid": os.getpid(), "gpus": ray.get_gpu_ids()}


def run_task(
    fn: Callable[..., Any],
    stage: str,
    number: int,
    retries: int,
    keep: int,
    threads: int,
    *args: Any,
) -> tuple[Any, ...]:
    """One task: its kept values, its answer, and the span."""
    prepare_worker(threads)
    result, span = measured(stage, number, node_name(), fn, args, retries)
    return (*result, span) if keep else (result, span)


def as_own_error(error: gone.RayTaskError) -> Exception:
    """The exception a task raised, as it was raised there."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else RunError(str(error))


def node_name() -> str:
    """A short name of the Ray node this process runs on."""
    return ray.get_runtime_context().get_node_id()[:12]


def nodes_by_cpu() -> list[str]:
    """Node ids, each as often as it has CPUs, dealt in turn: where one actor per CPU goes."""
    alive = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"])
    left = {node["NodeID"]: max(1, int(node["Resources"].get("CPU", 0))) for node in alive}
    order = []
    while any(left.values()):
        for name, count in left.items():
            if count:
                order.append(name)
                left[name] -= 1
    return order
