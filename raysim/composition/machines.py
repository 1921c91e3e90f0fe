"""The machines that a plan is for, where it is made on another: `nodes=4,cpus=16,gpus=2,gpu_memory_gib=24`."""

from __future__ import annotations

from dataclasses import dataclass, fields

from raysim.backends.capacity import Capacity, NodeCapacity
from raysim.config.method_text import parts
from raysim.errors import ConfigError, unknown_name
from raysim.options import Count, Declared, Positive, PositiveInt, construct

STORE_SHARE = 0.3
"""Share of a machine's memory that Ray gives its object store."""


@dataclass(frozen=True)
class Machines(Declared):
    """Nodes that are all alike."""

    nodes: PositiveInt = 1
    """How many there are."""
    cpus: PositiveInt = 16
    """Of each node."""
    memory_gib: Positive = 64.0
    """Of each node."""
    gpus: Count = 0
    """Of each node."""
    gpu_memory_gib: Positive | None = None
    """Of each GPU; must be given if there are some."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.gpus) != (self.gpu_memory_gib is not None):
            rule = "must be given with gpus, and only then"
            raise ConfigError("gpu_memory_gib", rule, self.gpu_memory_gib)

    @property
    def memory_bytes(self) -> int:
        """Of all nodes together."""
        return self.nodes * int(self.memory_gib * 2**30)

    @property
    def capacity(self) -> Capacity:
        """What a Ray cluster of them offers."""
        return Capacity(
            cpus=self.nodes * self.cpus,
            gpus=float(self.nodes * self.gpus),
            object_store_bytes=int(STORE_SHARE * self.memory_bytes),
            nodes=(NodeCapacity(self.cpus, self.gpus),) * self.nodes,
            gpu_memory_bytes=int((self.gpu_memory_gib or 0.0) * 2**30),
            elsewhere=True,
        )


def machines_of(key: str, text: str) -> Machines:
    """The machines that a word describes; ConfigError under `key` for another form, an unknown word or a wrong value."""
    known = [field.name for field in fields(Machines)]
    values: dict[str, object] = {}
    for part in parts(text):
        name, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(key, f"must have the form KEY=VALUE,... with {', '.join(known)}", text)
        if name not in known:
            raise unknown_name(key, name, known)
        values[name] = value
    try:
        return construct(Machines, values)
    except ConfigError as error:
        raise error.under(key) from None
