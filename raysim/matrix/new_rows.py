"""New rows that are each made of one old row, beside it: nothing is gathered, and nothing crosses but what is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.column_tasks import TRANSFORM_COLUMNS
from raysim.matrix.row_blocks import maxima_of
from raysim.matrix.updates import Updates


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
        replace(block, positions=members, rows=np.arange(len(members)), tiles=tiles, maxima=maxima)
        for (block, members), (tiles, maxima) in zip(blocks, kept, strict=True)
    ]
    return replace(
        updates,
        client_ids=np.asarray(client_ids, np.int64),
        num_examples=np.asarray(num_examples, np.int64),
        blocks=tuple(made),
        ahead=(),
    )


def _make(
    fn: Callable[..., np.ndarray], rows: np.ndarray, numbers: np.ndarray, count: int, *rest: np.ndarray
) -> tuple[Any, ...]:
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
