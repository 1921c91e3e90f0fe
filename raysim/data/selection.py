"""Which samples a load keeps: the limit, and the test share of data sets published without a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt, doc

from raysim import rng
from raysim.errors import ConfigError, DataError

TestShare = Annotated[
    Annotated[float, Gt(0), Lt(1)] | None,
    doc(
        "Share of the samples, drawn from the seed, that tests a data set published without a split; null: 0.2."
    ),
]
"""The option `test_share` of data sets."""


@dataclass(frozen=True)
class Selection:
    """A load's limit, seed and test share.

    limit: training samples to keep, None = all. test_share: the share of samples that becomes the test set of a
    data set without one, None = 0.2.
    """

    limit: int | None
    seed: int
    test_share: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ConfigError(
                "limit", "must be a positive whole number, or left out for all samples", self.limit
            )
        if self.test_share is not None and not 0 < self.test_share < 1:
            raise ConfigError("test_share", "must lie strictly between 0 and 1", self.test_share)

    def train(self, count: int) -> np.ndarray:
        """Indices of the training samples to keep: all in order, or the first `limit` of a seeded shuffle.

        A smaller limit keeps a prefix of what a larger one keeps, for the same seed.
        """
        return self._kept(count, self.limit, "train")

    def test(self, count: int) -> np.ndarray:
        """As `train` for the test samples, of which limit // 5 stay (at least one)."""
        return self._kept(count, None if self.limit is None else max(1, self.limit // 5), "test")

    def hold_out(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Split `count` samples at random: (training indices, test indices), each ascending.

        round(test_share * count) samples, at least one and never all, go to the test set.
        """
        if count < 2:
            raise DataError(f"a training and a test set need at least 2 samples, there are {count}")
        share = 0.2 if self.test_share is None else self.test_share
        order = rng.generator(self.seed, "data", "hold out").permutation(count)
        cut = min(max(1, round(share * count)), count - 1)
        return np.sort(order[cut:]), np.sort(order[:cut])

    def accept_test_set(self, where: object) -> None:
        """Raise ConfigError if a test share was asked of a data set that has a test set, at `where`."""
        if self.test_share is not None:
            raise ConfigError("test_share", f"must be left out: the test set is {where}", self.test_share)

    def _kept(self, count: int, limit: int | None, part: str) -> np.ndarray:
        if limit is None:
            return np.arange(count)
        return rng.generator(self.seed, "data", "limit", part).permutation(count)[:limit]
