"""The training data of one client, and of several clients put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClientData:
    """One client's local data: images [n, C, H, W] ready for the model (float32), labels [n] int64."""

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
