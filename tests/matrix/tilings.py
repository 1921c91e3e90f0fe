"""One small matrix of clients' rows, and the ways to cut it into tiles that its tests go through."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import num_bytes
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.updates import Updates

K, CHUNK = 7, 4096
LAYOUT = Layout(
    (Entry("a.weight", (50, 100), 0, 5000), Entry("a.bias", (200,), 5000, 5200), Entry("head", (3, 1500), 5200, 9700)),
    (Entry("mean", (6,), 9700, 9706), Entry("steps", (1,), 9706, 9707), Entry("more", (2,), 9707, 9709)),
    frozenset({"steps"}),
)  # fmt: skip
IDS = np.array([3, 8, 11, 12, 20, 21, 40])
EXAMPLES = np.array([10, 0, 30, 5, 5, 20, 30])
WHOLE = (0, 9700)
TILINGS = {
    "whole": (WHOLE, None),
    "row blocks": (WHOLE, 3),
    "column shards": ((0, 4096, 8192, 9700), None),
    "both": ((0, 8192, 9700), 2),
    "single rows": ((0, 4096, 8192, 9700), 1),
}
tilings = pytest.mark.parametrize("tiling", TILINGS)


class Watching(InProcessBackend):
    """Counts the bytes that come back to the process that asked, kept results left out."""

    arrived = 0

    def map(self, stage, fn, items, *, keep=0, needs=None):
        results = super().map(stage, fn, items, keep=keep)
        self.arrived += num_bytes([answer for _, answer in results] if keep else results)
        return results


def matrix(rows=K, seed=0):
    draw = np.random.default_rng(seed)
    found = draw.standard_normal((rows, 9709)).astype(np.float32)
    found[:, 9706] = draw.integers(1, 100, rows)
    return found


def cut(tiling="whole", values=None, backend=None):
    bounds, per_block = TILINGS[tiling]
    return replace(
        Updates.from_array(
            matrix() if values is None else values, backend or Watching(), layout=LAYOUT, client_ids=IDS,
            num_examples=EXAMPLES, bounds=bounds, rows_per_block=per_block,
        ),
        chunk=CHUNK,
    )  # fmt: skip


def first_and_norm(block, factor):
    return [(row[0] * factor, len(row), float(np.linalg.norm(row.astype(np.float64)))) for row in block]


def sums_and_count(columns):
    return np.append(columns.astype(np.float64).sum(axis=1), columns.shape[1])
