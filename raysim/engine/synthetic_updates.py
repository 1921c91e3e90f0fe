"""Updates without training: rows drawn from a seed around a shared direction, with a planted malicious group.

They have the shape of a model's updates, so that every defense works on them: each tensor moves in proportion to its
usual scale, and all clients keep the global model's buffers, whose running variances must stay positive. Every row
is drawn by the task that will hold it; a row's values depend on the seed, the row and the layout alone, never on
tiles, row blocks or backend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from raysim import rng
from raysim.backends.base import Backend
from raysim.errors import ConfigError
from raysim.matrix import row_blocks
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import RowBlock, maxima_of
from raysim.matrix.stacking import stacked
from raysim.matrix.updates import CHUNK_VALUES, Updates, shard_bounds


@dataclass(frozen=True)
class DrawnPopulation:
    """What the rows are drawn from.

    u_i = a (g + spread e_i), for malicious clients a (g + spread e_i + shift h), with a = norm / sqrt(1 + spread^2).
    g and h are the shared directions of all clients and of the malicious ones, e_i is a client's own; each is Gaussian
    of expected squared norm 1.
    """

    layout: Layout
    seed: int
    norm: float
    spread: float
    shift: float

    def rows(self, clients: np.ndarray, malicious: np.ndarray, bounds: tuple[int, ...]) -> list[np.ndarray]:
        """The tiles of these clients' rows: one [k, shard] per column shard, and the buffers' zeros last."""
        own = [rng.generator(self.seed, "synthetic", "client", int(client)) for client in clients]
        shared = rng.generator(self.seed, "synthetic", "all")
        planted = rng.generator(self.seed, "synthetic", "malicious")
        scale = self.norm / math.sqrt(1.0 + self.spread**2)
        entries = tensor_scales(self.layout)
        tiles = []
        for first, last in pairwise(bounds):
            tile = np.empty((len(clients), last - first), np.float32)
            factor = scale * _per_column(entries, first, last)
            centre = factor * shared.standard_normal(last - first, np.float32)
            malicious_centre = centre
            if malicious.any():
                malicious_centre = centre + self.shift * factor * planted.standard_normal(
                    last - first, np.float32
                )
            factor *= np.float32(self.spread)
            for row, generator, is_malicious in zip(tile, own, malicious, strict=True):
                generator.standard_normal(dtype=np.float32, out=row)
                row *= factor
                row += malicious_centre if is_malicious else centre
            tiles.append(tile)
        buffers = self.layout.num_columns - self.layout.dim
        return [*tiles, np.zeros((len(clients), buffers), np.float32)]


def synthetic_updates(
    backend: Backend,
    layout: Layout,
    num_clients: int,
    *,
    seed: int,
    malicious: int = 0,
    norm: float = 1.0,
    spread: float = 1.0,
    shift: float = 1.0,
    bounds: tuple[int, ...] | None = None,
    rows_per_block: int | None = None,
    clients: np.ndarray | None = None,
) -> tuple[Updates, np.ndarray]:
    """(K updates drawn from a seed, which of them are malicious: [K] bool). See `Population` for the model.

    norm: the expected norm of an honest update, in units of the parameters; small beside the global model's, so that
    global parameters plus update still make a usable network. spread: a client's own part beside the shared one.
    shift: how far, in units of the shared part, the malicious ones lie malicious_centre; 0 hides them. Who they are is drawn from
    the seed. bounds: column shards (0, ..., d), by default 64 MiB of K rows each. rows_per_block: rows that one task
    makes and holds; by default as `row_blocks.rows_per_block` has it. Cost O(K d).

    clients: ids of those of the num_clients whose rows are drawn, ascending; by default all. A row is the same
    whoever is drawn with it, so K is their number and num_clients only says who can be malicious. Column shards are
    then those of as many rows as are drawn.

    Raises ConfigError for counts, scales and ids out of range.
    """
    for key, value, least in (("num_clients", num_clients, 1), ("norm", norm, 0), ("spread", spread, 0)):
        if not value >= least:
            raise ConfigError(key, f"must be at least {least}", value, least)
    if not 0 <= malicious <= num_clients:
        raise ConfigError("malicious", f"must be from 0 to {num_clients}, the clients", malicious)
    if rows_per_block is not None and rows_per_block < 1:
        raise ConfigError("rows_per_block", "must be at least 1", rows_per_block, 1)
    ids = np.arange(num_clients) if clients is None else np.asarray(clients, np.int64)
    if not len(ids) or ids[0] < 0 or ids[-1] >= num_clients or (np.diff(ids) <= 0).any():
        raise ConfigError("clients", f"must be ascending ids from 0 to {num_clients - 1}", ids.tolist())
    count = len(ids)
    bounds = bounds or shard_bounds(count, layout.dim, 4 * CHUNK_VALUES)
    if rows_per_block is None:
        rows_per_block = row_blocks.rows_per_block(count, layout.num_columns, backend.workers)
    planted = np.zeros(num_clients, bool)
    planted[rng.generator(seed, "synthetic", "placement").choice(num_clients, malicious, replace=False)] = (
        True
    )
    mask = planted[ids]
    parts = [
        np.arange(first, min(first + rows_per_block, count)) for first in range(0, count, rows_per_block)
    ]
    population = backend.put(DrawnPopulation(layout, seed, norm, spread, shift))
    items = [(population, ids[part], mask[part], bounds) for part in parts]
    kept = backend.map("synthetic", _make_block, items, keep=len(bounds))
    blocks = tuple(
        RowBlock(part, np.arange(len(part)), tiles, maxima)
        for part, (tiles, maxima) in zip(parts, kept, strict=True)
    )
    return stacked(Updates(backend, layout, ids, np.ones(count, np.int64), bounds, blocks)), mask


def tensor_scales(layout: Layout) -> list[tuple[int, float]]:
    """(last column + 1, deviation) of every parameter tensor: 1 / sqrt(inputs), so that sum of squares is 1.

    A weight has as many inputs as values per output; a bias, or a norm layer's vector, moves like the weight before it.
    """
    scales, inputs, total = [], 1, 0.0
    for entry in layout.parameters:
        if len(entry.shape) > 1:
            inputs = math.prod(entry.shape[1:])
        scales.append((entry.stop, inputs**-0.5))
        total += (entry.stop - entry.start) / inputs
    return [(stop, scale / math.sqrt(max(total, 1e-300))) for stop, scale in scales]


def _per_column(scales: list[tuple[int, float]], first: int, last: int) -> np.ndarray:
    """The deviation of each of the columns [first, last): float32."""
    out = np.empty(last - first, np.float32)
    start = 0
    for stop, scale in scales:
        out[max(start - first, 0) : max(stop - first, 0)] = scale
        start = stop
    return out


def _make_block(
    population: DrawnPopulation, clients: np.ndarray, malicious: np.ndarray, bounds: tuple[int, ...]
) -> tuple[object, ...]:
    tiles = population.rows(clients, malicious, bounds)
    return (*tiles, maxima_of(tiles))
