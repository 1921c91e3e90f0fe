"""The training data of one client, and of several clients put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClientData:
    """One client's local data: inputs ready for the model, labels [n] int64.

    images: [n, C, H, W] float32, or another task's features [n, ...] float32 or tokens [n, ...] int64.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataPool:
    """The local data of several clients put together: their labels [n], and the samples on demand.

    take(positions [m]) reads those samples, in that order.
    """

    labels: np.ndarray
    take: Callable[[np.ndarray], ClientData]

    @classmethod
    def of(cls, data: ClientData) -> DataPool:
        """One client's data as a pool."""
        return cls(data.labels, lambda positions: ClientData(data.images[positions], data.labels[positions]))

    def __len__(self) -> int:
        return len(self.labels)
