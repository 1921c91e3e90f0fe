"""The backend on Ray: tasks for detection stages, actors that host clients, references in the object store.

Retries are the backend's own, so that they are counted: a task or call whose worker died is started again,
an actor that died is replaced, and a call that keeps failing comes back as None (the round records its
clients as lost). Everything a worker computes is a pure function of its arguments, so doing it twice is safe.

Every reference knows the nodes that hold it (placement.py): a task can be sent to its data, and its span says how
many bytes had to be brought to it.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import ray
from ray import exceptions as gone
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raysim.backends.base import Backend, Begun, Kept, Needs, Place, Reference, located
from raysim.backends.capacity import ClientActors
from raysim.backends.devices import CPU, Wanted
from raysim.backends.gathering import Courier, Gathering
from raysim.backends.placement import Node, Placed, beside_data, homes, seen
from raysim.backends.ray_actors import WORKER_LOST, Crew, as_own_error, nothing, objects, reserved
from raysim.backends.ray_carrying import Carrier, Started, worth_sending
from raysim.backends.ray_lines import Given, Lines
from raysim.backends.ray_nodes import leaving, nodes_by_cpu, with_room
from raysim.backends.ray_tasks import Strategy, all_stores_bytes, answered, at, ended, spilled, task_options
from raysim.backends.ray_waiting import all_that_ended, matched, overdue
from raysim.backends.ray_worker import handed_on, node_name, run_task, short_name
from raysim.backends.spilling import Spills, from_disk
from raysim.backends.telemetry import Telemetry, num_bytes
from raysim.errors import LostWork, RunError
from raysim.own_packages import take_names

if TYPE_CHECKING:
    from raysim.backends.placement import Handle

take_names()  # workers are sent what a program defines, and need not look for it

Placement = Literal["data", "head", "spread"]

RETRIES = 3
"""How often one task or call is started again after its worker died."""

TASKS_PER_WORKER = 4
"""Tasks in flight per CPU: enough to hide scheduling, few enough that their results fit the store."""

OBJECT_LOST = (gone.ObjectLostError, gone.OwnerDiedError, gone.ObjectFetchTimedOutError)


class RayBackend(Backend):
    """Work as Ray tasks, clients in Ray actors. Made in the process that owns them: the Server actor.

    placement: where tasks run. `data`: on a node that holds most of what earlier tasks left behind and this one
    reads (see placement.beside_data); `head`: on this process's node; `spread`: on all nodes in turn. A task that
    has nothing to be near to, whose needs that node cannot meet, or whose worker died there, is Ray's to place.

    device: of the client actors; `auto`: decided by each, and refused if they differ. What `Needs.accelerated` says
    of is then done by actors that have a GPU (see ClientActors), in turn; as tasks on CPUs where none has. elastic: see
    `reserved`.
    """

    def __init__(
        self,
        actors: ClientActors,
        *,
        workers: int,
        threads: int = 1,
        placement: Placement = "data",
        telemetry: Telemetry | None = None,
        device: Wanted = CPU,
        elastic: bool = False,
    ) -> None:
        self.node = node_name()
        self.telemetry = telemetry or Telemetry(node=self.node)
        self.placement = placement
        self.workers = workers
        self.threads = threads
        self.hosts = max(1, actors.count)
        self._plan, self._device, self._elastic = actors, device, elastic
        self._clients: Crew | None = None
        self._detectors: Crew | None = None
        self._group: PlacementGroup | None = None
        self._leaving: set[str] = set()
        self._task = ray.remote(max_retries=0)(run_task)
        self._carrier = Carrier(self._task, threads)
        self._spills = Spills(spilled, all_stores_bytes)

    def put(self, value: object) -> Reference:
        return self._spills.watch((Placed(ray.put(value), num_bytes(value), {self.node}),))[0]

    def get(self, reference: Reference) -> Any:
        if not isinstance(reference, Placed):
            return ray.get(cast("Handle", reference))
        try:
            value = ray.get(reference.object)
        except OBJECT_LOST as error:
            raise LostWork(f"what a task had left behind: {error}") from error
        reference.nodes.add(self.node)
        return value

    def map(
        self,
        stage: str,
        fn: Callable[..., object],
        items: Sequence[tuple[object, ...]],
        *,
        keep: int = 0,
        needs: Needs = Needs(),
    ) -> list[Any]:
        shipped = ray.put(fn)
        crew = self._accelerators() if needs.accelerated else None
        if crew is not None:
            return self._by_crew(crew, "do", shipped, stage, items, keep, must=True)
        options = task_options(keep, needs)
        strategies = self._strategies(items, needs)

        def submit(number: int, retries: int, worker: int) -> list[Handle]:
            strategy = "DEFAULT" if retries else strategies[number]
            task = self._task.options(**options, scheduling_strategy=strategy)
            references: list[Handle] = task.remote(
                shipped, stage, number, retries, keep, self.threads, *objects(items[number])
            )
            return references

        lines = Lines(max(1, self.workers * TASKS_PER_WORKER))
        return self._drive(stage, items, keep, lines, submit, must=True)

    def start_clients(self, make_host: Callable[..., object], args: tuple[object, ...]) -> None:
        self._reserve()
        plan = self._plan
        self._clients = Crew(
            [(plan.cpus, plan.gpus)] * plan.count,
            self._group if plan.cpus or plan.gpus else None,
            0,
            threads=self.threads,
            device=self._device,
            make_host=make_host,
            args=args,
        )

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
        assert self._clients is not None, "started before"
        limits = limits_s or [math.inf] * len(items)
        return self._by_crew(
            self._clients, "call", method, stage, items, keep, limits, work or (), near, must=False, then=then
        )

    def begin(
        self,
        stage: str,
        number: int,
        fn: Callable[..., object],
        *args: object,
        needs: Needs = Needs(),
    ) -> Begun:
        crew = self._accelerators() if needs.accelerated else None
        if crew is not None:
            actor = crew.actors[number % len(crew.actors)]
            return actor.do.options(num_returns=2).remote(stage, fn, number, 0, 0, *objects(args)), args
        strategy = self._strategies([args], needs)[0]
        task = self._task.options(**task_options(0, needs), scheduling_strategy=strategy)
        return task.remote(fn, stage, number, 0, 0, self.threads, *objects(args)), args

    def finish(self, stage: str, begun: Sequence[Begun]) -> list[Any]:
        answers: list[Any] = []
        with self.telemetry.stage(stage) as meter:
            for references, args in cast("Sequence[Started]", begun):
                try:
                    answer, (span, _) = answered(references)
                except (*WORKER_LOST, *OBJECT_LOST, gone.RayTaskError):
                    answers.append(None)
                    continue
                meter.tasks.append(seen(span, args, answer, self.node))
                answers.append(answer)
            meter.spilled_bytes = self._spills.look(now=True)
        return answers

    def gathering(self, shards: int, most_bytes: int) -> Gathering | None:
        nodes = [node for node in self._nodes() if node.offers(Needs())]
        if not most_bytes or self.placement != "data" or len(nodes) < 2 or self._accelerators() is not None:
            return None
        return Gathering(
            Courier(self._carrier.bring, ended, lambda tile: spilled([tile])[0]), shards, nodes, most_bytes
        )

    def broadcast(self, published: Reference) -> None:
        value = cast(Placed, published)
        if self._clients is not None and worth_sending(value):
            hosting = set(self._clients.nodes())
            self._carrier.broadcast(value, [node for node in self._nodes() if node.name in hosting])

    def homes(self, references: Sequence[Reference]) -> list[str]:
        return homes(cast("Sequence[Placed]", references), self.node)

    def recount(self, left: Sequence[Reference] = ()) -> None:
        """Tasks, and hosts that reserve nothing, go to the nodes that stay; what lies on others is taken off them."""
        self._leaving, plan = leaving(), self._plan
        nodes = nodes_by_cpu(self._leaving)
        self.workers = max(1, len(nodes) // self.threads)
        if self._clients is not None and not (plan.cpus or plan.gpus):
            count = min(self.workers, plan.most) if plan.most else plan.count
            self.hosts = self._clients.spread([nodes[place % len(nodes)] for place in range(count)])
        away = {short_name(node) for node in self._leaving}
        moving = [part for part in cast("Sequence[Placed]", left) if part.nodes & away]
        moved = self.map("move", handed_on, [(part,) for part in moving], keep=1) if moving else []
        for part, ((other,), _) in zip(moving, moved, strict=True):
            part.object, part.nodes, part.spilled = other.object, other.nodes, other.spilled

    def apart(self) -> RayBackend:
        """The same actors and tasks; the first of two threads that miss an actor replaces it."""
        view = copy.copy(self)
        view.telemetry = Telemetry(node=self.node)
        return view

    def close(self) -> None:
        for crew in (self._clients, self._detectors):
            if crew is not None:
                crew.close()
        self._clients = self._detectors = None
        if self._group is not None:
            remove_placement_group(self._group)
            self._group = None

    def client_places(self) -> list[Place]:
        return [] if self._clients is None else self._clients.places()

    def _reserve(self) -> None:
        """What client actors and those for detection take, together: none can take the other's place then."""
        plan = self._plan
        if self._group is None:
            clients = [(plan.cpus, plan.gpus)] * plan.count if plan.cpus or plan.gpus else []
            detectors = [(0.0, gpus) for gpus in plan.detection_gpus]
            self._group = reserved([*clients, *detectors], elastic=self._elastic)

    def _accelerators(self) -> Crew | None:
        """The actors that compute detection stages on GPUs; None if there are none."""
        plan = self._plan
        if plan.detection_gpus and self._detectors is None:
            self._reserve()
            first = plan.count if plan.cpus or plan.gpus else 0
            self._detectors = Crew(
                [(0.0, gpus) for gpus in plan.detection_gpus],
                self._group,
                first,
                threads=self.threads,
                device=self._device,
                make_host=nothing,
            )
        crew = self._detectors or (self._clients if plan.lend else None)
        return crew if crew is not None and crew.device == "cuda" else None

    def _by_crew(
        self,
        crew: Crew,
        entry: str,
        what: object,
        stage: str,
        items: Sequence[tuple[object, ...]],
        keep: int,
        limits_s: Sequence[float] = (),
        work: Sequence[float] = (),
        near: Sequence[str] = (),
        *,
        must: bool,
        then: Callable[[int, Kept], None] | None = None,
    ) -> list[Any]:
        """A call of an actor's method `entry` for every item, on whichever actor is free, if possible near, or is so soonest."""
        actors = list(crew.actors)  # those that join meanwhile are for the next stage
        nodes = crew.nodes() if near else []

        def submit(number: int, retries: int, place: int) -> list[Handle]:
            call = getattr(actors[place], entry).options(num_returns=keep + 2)
            references: list[Handle] = call.remote(
                stage, what, number, retries, keep, *objects(items[number])
            )
            return references

        def start_another(place: int) -> None:
            actors[place] = crew.replace(place, actors[place])

        def end(place: int) -> None:  # its call then fails, as that of any actor that died
            ray.kill(actors[place])

        lines = Lines(len(actors), ahead=True)
        return self._drive(
            stage, items, keep, lines, submit, must=must, on_lost=start_another, then=then,
            limits_s=limits_s, work=work, end=end, suits=lambda item, place: not near or near[item] == nodes[place],
        )  # fmt: skip

    def _strategies(self, items: Sequence[tuple[object, ...]], needs: Needs) -> list[Strategy]:
        """Ray's scheduling strategy for every task; soft affinity: falls back to another node if the chosen one has died."""
        if self.placement == "spread":
            return ["SPREAD"] * len(items)
        nodes = self._nodes()
        if self.placement == "head":
            here = [node for node in nodes if node.name == self.node and node.offers(needs)]
            chosen: list[Node | None] = [here[0] if here else None] * len(items)
        else:
            chosen = beside_data(items, needs, nodes)
        return [at(node) if node else "DEFAULT" for node in chosen]

    def _nodes(self) -> list[Node]:
        return with_room(self._group, self._leaving)

    def _drive(
        self,
        stage: str,
        items: Sequence[tuple[object, ...]],
        keep: int,
        lines: Lines,
        submit: Callable[[int, int, int], list[Handle]],
        *,
        must: bool,
        on_lost: Callable[[int], None] = lambda place: None,
        then: Callable[[int, Kept], None] | None = None,
        limits_s: Sequence[float] = (),
        work: Sequence[float] = (),
        end: Callable[[int], None] = lambda place: None,
        suits: Callable[[int, int], bool] = lambda item, place: True,
    ) -> list[Any]:
        """Keep every place busy until all items are done, those with most work begun first; the results in item order.

        A lost worker's item is done again, its place told to `on_lost`; what that had been given ahead does not count as
        tried. A place whose item takes longer than its limit is ended. An item out of retries is an error (must), or None.
        """
        count = len(items)
        results: list[Any] = [None] * count
        order = sorted(range(count), key=lambda number: -work[number]) if work else range(count)
        waiting = deque((number, 0) for number in order)
        ended: deque[Handle] = deque()
        arrived: deque[tuple[int, Kept]] = deque()
        restored: dict[int, int] = {}
        self.telemetry.on_progress(stage, 0, count)
        with self.telemetry.stage(stage) as meter:
            while waiting or lines.under_way or arrived:
                while waiting and (places := lines.open(len(waiting))):
                    (number, retries), place = matched(waiting, places, suits)
                    limit = limits_s[number] if limits_s else math.inf
                    restored[number] = from_disk(items[number])
                    lines.give(Given(number, retries, place, submit(number, retries, place), limit))
                while then is not None and arrived:  # told when no place stands idle meanwhile
                    then(*arrived.popleft())
                if not lines.under_way:
                    continue
                if not ended:
                    meter.spilled_bytes += self._spills.look()
                    ended.extend(all_that_ended(list(lines.under_way), lines.due))
                    for late in overdue(lines.due):
                        if late not in ended:
                            end(lines.under_way[late].place)
                    continue
                given = lines.under_way.get(ended.popleft())
                if given is None:
                    continue  # it was lost with what its place did before
                number, references = given.number, given.references
                try:
                    answer, (span, sizes) = answered(references[keep:])
                except WORKER_LOST as error:
                    blamed, innocent = lines.lost(given.place)
                    on_lost(given.place)
                    waiting.extendleft((other.number, other.retries) for other in reversed(innocent))
                    if blamed.retries < RETRIES:
                        waiting.append((blamed.number, blamed.retries + 1))
                    elif must:
                        problem = str(error).partition("\n")[0]  # Ray goes on for a page
                        raise RunError(f"task {blamed.number}: {problem}", stage=stage) from error
                    continue
                except OBJECT_LOST as error:
                    raise LostWork(f"task {number}: {error}", stage=stage) from error
                except gone.RayTaskError as error:
                    with located(stage):
                        raise as_own_error(error) from error
                lines.answered(given)
                meter.tasks.append(seen(span, items[number], answer, self.node, restored=restored[number]))
                kept = zip(references[:keep], sizes, strict=True)
                made = (Placed(reference, size, {span.node}, made=True) for reference, size in kept)
                left = self._spills.watch(tuple(made))
                results[number] = (left, answer) if keep else answer
                self.telemetry.on_progress(stage, len(meter.tasks), count)
                if then is not None:
                    arrived.append((number, results[number]))
            meter.spilled_bytes += self._spills.look(now=True)
        return results
