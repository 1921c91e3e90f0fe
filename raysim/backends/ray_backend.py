"""The backend on Ray: tasks for detection stages, actors that host clients, references in the object store.

Retries are the backend's own, so that they are counted: a task or call whose worker died is started again,
an actor that died is replaced, and a call that keeps failing comes back as None (the round records its
clients as lost). Everything a worker computes is a pure function of its arguments, so doing it twice is safe.

Every reference knows the nodes that hold it (placement.py): a task can be sent to its data, and its span says how
many bytes had to be brought to it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import ray
from ray import exceptions as gone
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raysim.backends.base import Backend, Begun, Needs, Reference, located
from raysim.backends.capacity import ClientActors
from raysim.backends.placement import Node, Placed, beside_data, bring, homes
from raysim.backends.ray_worker import ClientActor, node_name, run_task, short_name
from raysim.backends.telemetry import Telemetry, num_bytes
from raysim.errors import LostWork, RunError
from raysim.own_packages import take_names

take_names()  # workers are sent what a program defines, and need not look for it

Placement = Literal["data", "head", "spread"]

RETRIES = 3
"""How often one task or call is started again after its worker died."""

ENDED_AGAIN_S = 10.0
"""Seconds from one attempt to end a host that hangs to the next."""

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
    """Work as Ray tasks, clients in Ray actors. Made in the process that owns them: the Server actor.

    placement: where tasks run. `data`: on a node that holds most of what earlier tasks left behind and this one
    reads (see placement.beside_data); `head`: on this process's node; `spread`: on all nodes in turn. A task that
    has nothing to be near to, whose needs that node cannot meet, or whose worker died there, is Ray's to place.
    """

    def __init__(
        self,
        actors: ClientActors,
        *,
        workers: int,
        threads: int = 1,
        placement: Placement = "data",
        telemetry: Telemetry | None = None,
    ) -> None:
        self.node = node_name()
        self.telemetry = telemetry or Telemetry(node=self.node)
        self.placement = placement
        self.workers = workers
        self.threads = threads
        self._plan = actors
        self._actors: list[Any] = []
        self._replacing = threading.Lock()
        self._make: tuple[Any, ...] = ()
        self._group: PlacementGroup | None = None
        self._task = ray.remote(max_retries=0)(run_task)
        self._actor_class = ray.remote(max_restarts=0, max_task_retries=0)(ClientActor)

    def put(self, value: Any) -> Reference:
        return Placed(ray.put(value), num_bytes(value), {self.node})

    def get(self, reference: Reference) -> Any:
        if not isinstance(reference, Placed):
            return ray.get(reference)
        try:
            value = ray.get(reference.object)
        except OBJECT_LOST as error:
            raise LostWork(f"what a task had left behind: {error}") from error
        reference.nodes.add(self.node)
        return value

    def map(
        self,
        stage: str,
        fn: Callable[..., Any],
        items: Sequence[tuple[Any, ...]],
        *,
        keep: int = 0,
        needs: Needs = Needs(),
    ) -> list[Any]:
        options = task_options(keep, needs)
        strategies = self._strategies(items, needs)
        shipped = ray.put(fn)

        def submit(number: int, retries: int, worker: Any) -> list[Any]:
            strategy = "DEFAULT" if retries else strategies[number]
            task = self._task.options(**options, scheduling_strategy=strategy)
            references: list[Any] = task.remote(
                shipped, stage, number, retries, keep, self.threads, *objects(items[number])
            )
            return references

        free = deque(range(max(1, self.workers * TASKS_PER_WORKER)))
        return self._drive(stage, items, keep, free, submit, on_lost=None)

    def start_clients(self, make_host: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._make = (make_host, args)
        if self._plan.cpus or self._plan.gpus:
            bundle = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
            bundles = [{kind: share for kind, share in bundle.items() if share}] * self._plan.count
            self._group = placement_group(bundles, strategy="SPREAD")
            ray.get(self._group.ready())
        nodes = nodes_by_cpu()
        self._actors = [self._start_actor(place, nodes) for place in range(self._plan.count)]
        # A slow starter would otherwise leave its share of the first round to the others; calls replace a dead one.
        with contextlib.suppress(*WORKER_LOST):
            self.client_places()

    def call_clients(
        self,
        stage: str,
        method: str,
        items: Sequence[tuple[Any, ...]],
        *,
        keep: int = 0,
        then: Callable[[int, Any], None] | None = None,
        limits_s: Sequence[float] | None = None,
    ) -> list[Any]:
        asked: dict[int, Any] = {}

        def submit(number: int, retries: int, place: int) -> list[Any]:
            asked[place] = self._actors[place]
            call = asked[place].call.options(num_returns=keep + 2)
            references: list[Any] = call.remote(stage, method, number, retries, keep, *objects(items[number]))
            return references

        def start_another(place: int) -> None:
            with self._replacing:
                if self._actors[place] is asked[place]:  # else another thread's call has met its death before
                    ray.kill(self._actors[place])
                    self._actors[place] = self._start_actor(place, nodes_by_cpu())

        places = deque(range(len(self._actors)))

        def end(place: int) -> None:  # its call then fails, as that of any actor that died
            ray.kill(asked[place])

        limits = limits_s or [math.inf] * len(items)
        return self._drive(stage, items, keep, places, submit, start_another, then, limits, end)

    def begin(
        self, stage: str, number: int, fn: Callable[..., Any], *args: Any, needs: Needs = Needs()
    ) -> Begun:
        (strategy,) = self._strategies([args], needs)
        task = self._task.options(**task_options(0, needs), scheduling_strategy=strategy)
        return task.remote(fn, stage, number, 0, 0, self.threads, *objects(args)), args

    def finish(self, stage: str, begun: Sequence[Begun]) -> list[Any]:
        answers: list[Any] = []
        with self.telemetry.stage(stage) as meter:
            for references, args in begun:
                try:
                    answer, (span, _) = ray.get(references)
                except (*WORKER_LOST, *OBJECT_LOST, gone.RayTaskError):
                    answers.append(None)
                    continue
                meter.tasks.append(replace(span, bytes_moved=bring(args, span.node, self.node)))
                answers.append(answer)
        return answers

    def homes(self, references: Sequence[Reference]) -> list[str]:
        return homes(references)

    def apart(self) -> RayBackend:
        """The same actors and tasks; the first of two threads that miss an actor replaces it."""
        view = copy.copy(self)
        view.telemetry = Telemetry(node=self.node)
        return view

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
        return self._actor_class.options(**options).remote(self.threads, make_host, *objects(args))

    def _strategies(self, items: Sequence[tuple[Any, ...]], needs: Needs) -> list[Any]:
        """Ray's scheduling strategy for every task; soft affinity: falls back to another node if the chosen one has died."""
        if self.placement == "spread":
            return ["SPREAD"] * len(items)
        nodes = self._nodes()
        if self.placement == "head":
            here = [node for node in nodes if node.name == self.node and node.offers(needs)]
            chosen: list[Node | None] = [here[0] if here else None] * len(items)
        else:
            chosen = beside_data(items, needs, nodes)
        return [NodeAffinitySchedulingStrategy(node.id, soft=True) if node else "DEFAULT" for node in chosen]

    def _nodes(self) -> list[Node]:
        """The nodes alive, and what the client actors' and this actor's own reservations leave of each."""
        reserved: Counter[tuple[str, str]] = Counter()
        context = ray.get_runtime_context()
        if context.get_actor_id():
            for kind, share in context.get_assigned_resources().items():
                reserved[context.get_node_id(), kind] += share
        if self._group is not None:
            table = placement_group_table(self._group)
            for place, bundle in table["bundles"].items():
                for kind, share in bundle.items():
                    reserved[table["bundles_to_node_id"][place], kind] += share
        found = []
        for node in ray.nodes():
            if node["Alive"]:
                left = [
                    node["Resources"].get(kind, 0.0) - reserved[node["NodeID"], kind]
                    for kind in ("CPU", "GPU", "memory")
                ]
                found.append(Node(short_name(node["NodeID"]), node["NodeID"], *left))
        return found

    def _drive(
        self,
        stage: str,
        items: Sequence[tuple[Any, ...]],
        keep: int,
        free: deque[Any],
        submit: Callable[[int, int, Any], list[Any]],
        on_lost: Callable[[Any], None] | None,
        then: Callable[[int, Any], None] | None = None,
        limits_s: Sequence[float] = (),
        end: Callable[[Any], None] | None = None,
    ) -> list[Any]:
        """Keep every free place busy until all items are done; the results in item order.

        A lost worker's item is done again. A place whose item takes longer than its limit is ended. Where places can be replaced (on_lost), an item out of retries is
        None; where they cannot, that is an error.
        """
        count = len(items)
        results: list[Any] = [None] * count
        waiting = deque((number, 0) for number in range(count))
        running: dict[Any, tuple[int, int, Any, list[Any]]] = {}
        arrived: deque[tuple[int, Any]] = deque()
        due: dict[Any, float] = {}
        done = 0
        self.telemetry.on_progress(stage, 0, count)
        with self.telemetry.stage(stage) as meter:
            while waiting or running or arrived:
                while waiting and free:
                    number, retries = waiting.popleft()
                    place = free.popleft()
                    references = submit(number, retries, place)
                    running[references[-1]] = (number, retries, place, references)
                    due[references[-1]] = time.monotonic() + (limits_s[number] if limits_s else math.inf)
                while then is not None and arrived:  # told when no place stands idle meanwhile
                    then(*arrived.popleft())
                if not running:
                    continue
                first = min(due[reference] for reference in running) - time.monotonic()
                ready, _ = ray.wait(list(running), timeout=None if first == math.inf else max(first, 0.1))
                if not ready and end is not None:
                    for reference in [item for item in running if due[item] <= time.monotonic()]:
                        end(running[reference][2])
                        due[reference] += ENDED_AGAIN_S
                if not ready:
                    continue
                number, retries, place, references = running.pop(ready[0])
                try:
                    answer, (span, sizes) = ray.get(references[keep:])
                except WORKER_LOST as error:
                    if on_lost is not None:
                        on_lost(place)
                    free.append(place)
                    if retries < RETRIES:
                        waiting.append((number, retries + 1))
                    elif on_lost is None:
                        problem = str(error).partition("\n")[0]  # Ray goes on for a page
                        raise RunError(f"task {number}: {problem}", stage=stage) from error
                    continue
                except OBJECT_LOST as error:
                    raise LostWork(f"task {number}: {error}", stage=stage) from error
                except gone.RayTaskError as error:
                    with located(stage):
                        raise as_own_error(error) from error
                free.append(place)
                meter.tasks.append(replace(span, bytes_moved=bring(items[number], span.node, self.node)))
                kept = zip(references[:keep], sizes, strict=True)
                left = tuple(Placed(reference, size, {span.node}, made=True) for reference, size in kept)
                results[number] = (left, answer) if keep else answer
                done += 1
                self.telemetry.on_progress(stage, done, count)
                if then is not None:
                    arrived.append((number, results[number]))
        return results


def task_options(keep: int, needs: Needs) -> dict[str, Any]:
    """Ray's options for a task that returns what `handed_back` says."""
    options: dict[str, Any] = {"num_returns": keep + 2, "num_cpus": needs.cpus, "num_gpus": needs.gpus}
    return {**options, "memory": needs.memory} if needs.memory else options


def objects(arguments: Sequence[Any]) -> list[Any]:
    """The arguments as Ray takes them."""
    return [argument.object if isinstance(argument, Placed) else argument for argument in arguments]


def as_own_error(error: gone.RayTaskError) -> Exception:
    """The exception a task raised, as it was raised there."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else RunError(str(error))


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
