"""Random numbers by column: the same draw for a column, however the columns are cut into tiles and chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from raysim import rng

BLOCK = 16_384
"""Columns drawn from one generator: as many as `Updates.transform` asks for at a time, so that none are drawn twice where shards
begin at multiples of it (up to K = 1024)."""


@dataclass(frozen=True)
class ColumnNoise:
    """An unbounded row of independent draws; any column range can be generated on demand.

    seed, key: what the draws are keyed by (`rng.generator`); the block number is added to the key.

    >>> noise = ColumnNoise(1, ("attack", 0, 7))
    >>> bool((noise.uniform(0, 40_000)[17_000:18_000] == noise.uniform(17_000, 1_000)).all())
    True
    """

    seed: int
    key: tuple[rng.Key, ...]

    def uniform(self, first: int, count: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """U[low, high) for columns first .. first + count - 1: [count] float32."""
        return self._draw("random", first, count, high - low, low)

    def normal(self, first: int, count: int, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
        """N(mean, std^2) for columns first .. first + count - 1: [count] float32."""
        return self._draw("standard_normal", first, count, std, mean)

    def _draw(self, method: str, first: int, count: int, scale: float, shift: float) -> np.ndarray:
        out = np.empty(count, np.float32)
        for block, start, stop in _blocks(first, first + count):
            part, skipped = out[start - first : stop - first], start - block * BLOCK
            draw = getattr(rng.generator(self.seed, *self.key, "columns", block), method)
            if skipped:
                part[:] = draw(skipped + len(part), dtype=np.float32)[skipped:]
            else:
                draw(dtype=np.float32, out=part)
            part *= np.float32(scale)
            part += np.float32(shift)
        return out


def _blocks(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """(block number, first column, last column) of the blocks that cover columns [first, last)."""
    while first < last:
        block = first // BLOCK
        stop = min(last, (block + 1) * BLOCK)
        yield block, first, stop
        first = stop
