"""Ray actors that stay for a whole run: those that host clients, and those that compute detection stages on GPUs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import ray
from ray import exceptions
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from raysim.backends import devices
from raysim.backends.base import Place
from raysim.backends.placement import Placed
from raysim.backends.ray_nodes import leaving, nodes_by_cpu
from raysim.backends.ray_worker import RayActor, short_name
from raysim.errors import ConfigError, RunError

Actor: TypeAlias = Any
"""Ray's handle of a RayActor: its methods get their `remote` at run time, which Ray's types do not tell."""

PLACING_S = 300
"""How long reservations may wait for others to let go of what the cluster has; with an autoscaler, for ever."""

WORKER_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.ActorDiedError,
    exceptions.ActorUnavailableError,
    exceptions.ActorUnschedulableError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
)
"""What a call ends with when its process died, whatever of."""

Share = tuple[float, float]
"""The CPUs and the share of a GPU that one actor reserves."""


class Crew:
    """Actors that take calls in turn. One that died is replaced in its place.

    bundles: of a placement group, one for each share, from number `first` on; None: nothing is reserved, and actors
    are dealt among the nodes by CPUs. device: what was wanted; once all have started, what they have in common.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        group: PlacementGroup | None,
        first: int,
        *,
        threads: int,
        device: devices.Wanted,
        make_host: Callable[..., object],
        args: Sequence[object] = (),
    ) -> None:
        self._shares, self._group, self._first, self._threads = shares, group, first, threads
        self._make = (make_host, args)
        self._replacing = threading.Lock()
        self._class = ray.remote(max_restarts=0, max_task_retries=0)(RayActor)
        self.device: devices.Wanted = device
        self._unfit: set[str] = set()
        nodes = nodes_by_cpu(leaving())
        self._on = [nodes[place % len(nodes)] for place in range(len(shares))]
        self.actors = [self._start(place, node) for place, node in enumerate(self._on)]
        # Waits for all: a slow starter would leave its share of the first round to the others.
        if places := self.places():
            self.device = common_device(places)

    def places(self) -> list[Place]:
        """What `RayActor.place` says of each that lives; its ConfigError if a device is not there."""
        asked, found = [actor.place.remote() for actor in self.actors], []
        for number, answer in enumerate(asked):
            try:
                found.append(ray.get(answer))
                if self._group is not None:  # then Ray has chosen it
                    self._on[number] = found[-1]["node"]
            except WORKER_LOST:
                continue  # its next call replaces it
            except exceptions.RayTaskError as error:
                raise as_own_error(error) from error
        return found

    def nodes(self) -> list[str]:
        """The name of each actor's node; of one that reserves something, where it was when `places` was asked."""
        return [short_name(node) for node in self._on]

    def replace(self, place: int, dead: Actor) -> Actor:
        """Start another actor where `dead` was, unless that has been done or it has been let go; whom to ask instead."""
        with self._replacing:
            for place_now, actor in enumerate(self.actors):
                if actor is dead:
                    ray.kill(dead)
                    nodes = [node for node in nodes_by_cpu(leaving()) if node not in self._unfit]
                    nodes = nodes or [self._on[place_now]]
                    self._on[place_now] = nodes[place_now % len(nodes)]
                    self.actors[place_now] = self._start(place_now, self._on[place_now])
                    return self.actors[place_now]
            return self.actors[place % len(self.actors)]

    def spread(self, nodes: Sequence[str]) -> int:
        """Have an actor for each entry of `nodes`, ids of nodes; how many there are then. For crews that reserve nothing.

        Those that are there stay. One that none of the entries asks for is let go: Ray ends it after the calls that it has been
        given. A node whose actor does not come up gets none; if it cannot host, having another kind of device or no data, it is
        not asked again.
        """
        with self._replacing:
            wanted = Counter(node for node in nodes if node not in self._unfit)
            crew: list[tuple[Actor, str]] = []
            for actor, node in zip(self.actors, self._on, strict=True):
                if wanted[node]:
                    wanted[node] -= 1
                    crew.append((actor, node))
            begun = [
                (self._start(len(crew) + more, node), node) for more, node in enumerate(wanted.elements())
            ]
            for actor, node in begun:
                try:
                    ray.get(actor.place.remote())
                except exceptions.RayTaskError:
                    self._unfit.add(node)
                except WORKER_LOST:
                    pass  # the node has gone meanwhile
                else:
                    crew.append((actor, node))
            if crew:
                self.actors, self._on = [actor for actor, _ in crew], [node for _, node in crew]
            return len(self.actors)

    def close(self) -> None:
        """End them all."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _start(self, place: int, node: str) -> Actor:
        """An actor in that place; if nothing is reserved, on that node."""
        cpus, gpus = self._shares[place % len(self._shares)]
        strategy: PlacementGroupSchedulingStrategy | NodeAffinitySchedulingStrategy
        if self._group is not None:
            strategy = PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=self._first + place
            )
        else:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        make_host, args = self._make
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": strategy}
        actor = self._class.options(**options)
        return actor.remote(self._threads, self.device, place, make_host, *objects(args))


def common_device(places: Sequence[Place]) -> devices.Wanted:
    """The kind of device that all actors use. ConfigError if they differ: results would depend on who trains whom."""
    found = {devices.kind(place["device"]): place["node"] for place in places}
    if len(found) > 1:
        rule = (
            f"must be one kind for all: an actor on node {found['cuda']} computes on a GPU and one on node "
            f"{found['cpu']} on its CPU, so that results would depend on who trains whom; reserve GPUs "
            "(resources.client_gpus), which only nodes with GPUs can serve, or train on CPUs"
        )
        raise ConfigError("resources.device", rule, "auto", "cpu")
    return "cuda" if "cuda" in found else "cpu"


def reserved(shares: Sequence[Share], *, elastic: bool) -> PlacementGroup | None:
    """A placement group of a bundle for each share, spread over the nodes, when it is there; None if they are all 0.

    elastic: an autoscaler may have to start machines first. RunError when others do not let go of what is needed.
    """
    kinds = ("CPU", "GPU")
    bundles = [{kind: part for kind, part in zip(kinds, share, strict=True) if part} for share in shares]
    if not any(bundles):
        return None
    group: PlacementGroup = placement_group(
        [bundle or {"CPU": 0.001} for bundle in bundles], strategy="SPREAD"
    )
    if elastic:
        ray.get(group.ready())
    elif not group.wait(PLACING_S):
        remove_placement_group(group)
        raise RunError(
            f"{len(bundles)} actors, each reserving {bundles[0]}, were not placed within {PLACING_S} s: "
            f"of the cluster {ray.available_resources()} is free (with an autoscaler set resources.elastic=true)"
        )
    return group


def objects(arguments: Sequence[object]) -> list[object]:
    """The arguments as Ray takes them."""
    return [argument.object if isinstance(argument, Placed) else argument for argument in arguments]


def as_own_error(error: exceptions.RayTaskError) -> Exception:
    """The exception a task raised, as it was raised there."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else RunError(str(error))


def nothing() -> None:
    """The host of an actor that hosts no clients."""
