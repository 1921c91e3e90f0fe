"""New rows that are each made of one old row, beside it: nothing is gathered, and nothing crosses but what is published.

`rows_from` works on few columns at a time; `rows_of_another_width` has the whole row, and may make it longer or shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.column_tasks import TRANSFORM_COLUMNS
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import maxima_of, put_row, zero_tiles
from raysim.matrix.stacking import stacked
from raysim.matrix.updates import CHUNK_VALUES, Updates, shard_bounds


def rows_from(
    updates: Updates,
    sources: np.ndarray,
    stage: str,
    fn: Callable[..., np.ndarray],
    *along: np.ndarray | Reference,
    client_ids: np.ndarray,
    num_examples: np.ndarray,
) -> Updates:
    """Row a of the m new ones from row sources[a] of `updates`, [m, d + b] left where these lie.

    fn(values [c], first column, a, *along [c]) -> [c], for TRANSFORM_COLUMNS at a time (cut at multiples of that), and for
    the buffer columns, with first column >= d. along: vectors [d] or [d + b], or references to such. client_ids [m]
    (ascending), num_examples [m]: whose rows these are.
    """
    sources = np.asarray(sources)
    blocks, items = [], []
    for block in updates.blocks:
        row_of = np.full(updates.num_clients, -1)
        row_of[block.positions] = block.rows
        members = np.flatnonzero(row_of[sources] >= 0)
        if len(members):
            blocks.append((block, members))
            items.append((fn, row_of[sources[members]], members, len(block.tiles), *block.tiles, *along))
    kept = updates.backend.map(stage, _make, items, keep=len(updates.bounds))
    made = [
        replace(
            block, positions=members, rows=np.arange(len(members)), tiles=tiles, maxima=maxima, stack=None
        )
        for (block, members), (tiles, maxima) in zip(blocks, kept, strict=True)
    ]
    new = replace(
        updates,
        client_ids=np.asarray(client_ids, np.int64),
        num_examples=np.asarray(num_examples, np.int64),
        blocks=tuple(made),
        ahead=(),
    )
    return stacked(new)


def rows_of_another_width(
    updates: Updates, stage: str, fn: Callable[..., np.ndarray], width: int, *shared: object
) -> Updates:
    """Row i of the new ones, [K, width] without buffers, is fn(row i [d] float32, *shared), and is left beside it."""
    bounds = shard_bounds(updates.num_clients, width, 4 * CHUNK_VALUES)
    items = [
        (fn, bounds, block.rows, len(block.tiles) - 1, *block.tiles[:-1], *shared) for block in updates.blocks
    ]
    kept = updates.backend.map(stage, _remake, items, keep=len(bounds))
    made = [
        replace(block, rows=np.arange(len(block.rows)), tiles=tiles, maxima=maxima, stack=None)
        for block, (tiles, maxima) in zip(updates.blocks, kept, strict=True)
    ]
    new = Updates(
        updates.backend, Layout.flat(width), updates.client_ids, updates.num_examples, bounds, tuple(made)
    )
    return stacked(new)


def _remake(
    fn: Callable[..., np.ndarray], bounds: tuple[int, ...], rows: np.ndarray, count: int, *rest: object
) -> tuple[object, ...]:
    """The tiles of the new rows, and their maxima."""
    tiles, shared = cast("Sequence[np.ndarray]", rest[:count]), rest[count:]
    made = zero_tiles(len(rows), bounds, bounds[-1])
    for target, row in enumerate(rows):
        put_row(made, target, fn(np.concatenate([tile[row] for tile in tiles]), *shared))
    return (*made, maxima_of(made))


def _make(
    fn: Callable[..., np.ndarray], rows: np.ndarray, numbers: np.ndarray, count: int, *rest: np.ndarray
) -> tuple[object, ...]:
    """The tiles of the new rows, and their maxima."""
    tiles, along = rest[:count], rest[count:]
    made, first = [], 0
    for tile in tiles:
        out = np.empty((len(rows), tile.shape[1]), np.float32)
        for start, stop in _cut(first, first + tile.shape[1]):
            here = slice(start - first, stop - first)
            parts = [vector[start:stop] for vector in along]
            for target, row, number in zip(out, rows, numbers, strict=True):
                target[here] = fn(tile[row, here], start, int(number), *parts)
        made.append(out)
        first += tile.shape[1]
    return (*made, maxima_of(made))


def _cut(first: int, last: int) -> Iterator[tuple[int, int]]:
    """(start, stop) that cover [first, last), cut at multiples of TRANSFORM_COLUMNS."""
    while first < last:
        stop = min(last, (first // TRANSFORM_COLUMNS + 1) * TRANSFORM_COLUMNS)
        yield first, stop
        first = stop
