"""What a backend offers, and what client actors take of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capacity:
    """What the backend offers, for the `auto` rules and the refusal of over-subscription."""

    cpus: int = 1
    gpus: float = 0.0
    object_store_bytes: int = 0
    """0: no object store (in-process)."""

    def workers(self, threads: int) -> int:
        """How many tasks of that many threads can run at the same time, at least one."""
        return max(1, self.cpus // threads)


@dataclass(frozen=True)
class ClientActors:
    """How many client actors there are, and what each reserves."""

    count: int
    cpus: float = 0.0
    gpus: float = 0.0
