"""Model state as one flat float32 vector.

    columns   [0, d)        trainable parameters, in `named_parameters` order
              [d, d + b)    buffers, in `named_buffers` order: what BatchNorm measures, and its counters

Defenses see the first d columns. The buffers travel behind them and follow the verdict's weights
(averaged if they are floating, copied from the first accepted client if they count).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from raysim.errors import unknown_name
from raysim.trees import Tree

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Entry:
    """One tensor's place in the vector: columns [start, stop), reshaped to `shape`."""

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Where each parameter and buffer of a model lies in the flat vector."""

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...] = ()
    counters: frozenset[str] = frozenset()
    """Names of integer buffers: held as float32 (exact up to 2**24), never averaged."""

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a module's parameters and buffers."""
        start = 0
        groups: list[tuple[Entry, ...]] = []
        for tensors in (model.named_parameters(), model.named_buffers()):
            entries = []
            for name, tensor in tensors:
                shape = tuple(tensor.shape)
                entries.append(Entry(name, shape, start, start + math.prod(shape)))
                start = entries[-1].stop
            groups.append(tuple(entries))
        counters = frozenset(name for name, buffer in model.named_buffers() if not buffer.is_floating_point())
        return cls(groups[0], groups[1], counters)

    @classmethod
    def flat(cls, dim: int) -> Layout:
        """A layout of one unnamed vector of d parameters, for matrices that come without a model."""
        return cls((Entry("vector", (dim,), 0, dim),))

    @classmethod
    def from_tree(cls, tree: Tree) -> Layout:
        """What `tree` made."""
        start, groups = 0, []
        for group in ("parameters", "buffers"):
            entries = []
            for name, shape in tree[group]:
                entries.append(Entry(name, tuple(shape), start, start + math.prod(shape)))
                start = entries[-1].stop
            groups.append(tuple(entries))
        return cls(groups[0], groups[1], frozenset(tree["counters"]))

    def tree(self) -> dict[str, object]:
        """Names and shapes as lists and dicts, for JSON."""
        return {
            "parameters": [[entry.name, list(entry.shape)] for entry in self.parameters],
            "buffers": [[entry.name, list(entry.shape)] for entry in self.buffers],
            "counters": sorted(self.counters),
        }

    @cached_property
    def dim(self) -> int:
        """Number d of trainable parameters."""
        return self.parameters[-1].stop if self.parameters else 0

    @cached_property
    def num_columns(self) -> int:
        """d plus the number of buffer values."""
        return self.buffers[-1].stop if self.buffers else self.dim

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in (*self.parameters, *self.buffers)}

    def entry(self, name: str) -> Entry:
        """The entry of one parameter or buffer; ConfigError with the nearest name when there is none."""
        if name not in self._by_name:
            raise unknown_name("parameter name", name, self._by_name)
        return self._by_name[name]

    def view(self, vector: np.ndarray, name: str) -> np.ndarray:
        """The named tensor inside a vector [..., d or d + b], without a copy where the vector allows."""
        entry = self.entry(name)
        return vector[..., entry.start : entry.stop].reshape((*vector.shape[:-1], *entry.shape))

    def counter_columns(self) -> np.ndarray:
        """Columns of integer buffers [c] int64, relative to the first buffer column."""
        spans = [
            np.arange(e.start - self.dim, e.stop - self.dim) for e in self.buffers if e.name in self.counters
        ]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)

    @cached_property
    def variance_columns(self) -> np.ndarray:
        """Columns [v] of running variances (`running_var` of BatchNorm and InstanceNorm), which cannot be negative."""
        spans = [
            np.arange(e.start, e.stop) for e in self.buffers if e.name.rpartition(".")[2] == "running_var"
        ]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)

    def vector(self, model: nn.Module) -> np.ndarray:
        """The model's state as a new float32 vector [d + b]."""
        import torch

        with torch.no_grad():
            tensors = [*model.parameters(), *model.buffers()]
            parts = [tensor.detach().to("cpu", torch.float32).reshape(-1).numpy() for tensor in tensors]
            return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def state_dict(self, vector: np.ndarray) -> dict[str, torch.Tensor]:
        """Copies of the tensors in a vector [d + b], by name: float32, counters int64."""
        import torch

        return {
            entry.name: torch.from_numpy(
                self.view(vector, entry.name).astype(np.int64 if entry.name in self.counters else np.float32)
            )
            for entry in (*self.parameters, *self.buffers)
        }

    def bind(self, model: nn.Module, vector: torch.Tensor) -> None:
        """Make the model's parameters and float32 buffers views of `vector` [d + b]; other buffers are copied in.

        Loading the next client is then one copy into `vector`, and a training step moves all parameters
        at once.
        """
        import torch

        with torch.no_grad():
            for entry, parameter in zip(self.parameters, model.parameters(), strict=True):
                parameter.data = vector[entry.start : entry.stop].view(entry.shape)
            for entry, (name, buffer) in zip(self.buffers, list(model.named_buffers()), strict=True):
                values = vector[entry.start : entry.stop].view(entry.shape)
                if buffer.dtype == torch.float32:
                    buffer.data = values
                else:
                    buffer.data = values.to(buffer.dtype)
                assert name == entry.name

    def write_counters(self, model: nn.Module, vector: torch.Tensor) -> None:
        """Copy the model's buffers that cannot be views (counters, other floats) back into `vector` [d + b]."""
        for entry, buffer in self._copied(model):
            vector[entry.start : entry.stop] = buffer.reshape(-1).to(vector.dtype)

    def read_counters(self, model: nn.Module, vector: torch.Tensor) -> None:
        """Copy those buffers from `vector` [d + b] into the bound model."""
        for entry, buffer in self._copied(model):
            buffer.copy_(vector[entry.start : entry.stop].view(entry.shape))

    def _copied(self, model: nn.Module) -> list[tuple[Entry, torch.Tensor]]:
        import torch

        buffers = model.named_buffers()
        return [(self.entry(name), buffer) for name, buffer in buffers if buffer.dtype != torch.float32]
