"""What runs in Ray's worker processes: one task, and the actor around a client host."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import ray

from raysim.backends.base import prepare_worker
from raysim.backends.telemetry import Span, measured, num_bytes


class ClientActor:
    """A Ray actor around one client host."""

    def __init__(self, threads: int, make_host: Callable[..., Any], *args: Any) -> None:
        prepare_worker(threads)
        self.host = make_host(*args)
        self.node = node_name()

    def call(
        self, stage: str, method: str, number: int, retries: int, keep: int, *args: Any
    ) -> tuple[Any, ...]:
        """What `handed_back` says."""
        return handed_back(
            *measured(stage, number, self.node, getattr(self.host, method), args, retries), keep
        )

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
    """One task; returns what `handed_back` says."""
    prepare_worker(threads)
    return handed_back(*measured(stage, number, node_name(), fn, args, retries), keep)


def handed_back(result: Any, span: Span, keep: int) -> tuple[Any, ...]:
    """What a task returns to Ray: its kept values, its answer, and (the span, bytes of each kept value)."""
    *kept, answer = result if keep else (result,)
    return (*kept, answer, (span, [num_bytes(value) for value in kept]))


def node_name() -> str:
    """A short name of the Ray node this process runs on."""
    return short_name(ray.get_runtime_context().get_node_id())


def short_name(node_id: str) -> str:
    """A node's name in spans."""
    return node_id[:12]
