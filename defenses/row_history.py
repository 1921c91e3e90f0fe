"""A row [d] for every client a defense has seen, in tiles that stay where the rows were made.

State: {"layers": [...]}, each a row block that a round left behind: "clients" [n] whose newest row is among its tiles, "rows"
[n] where, "shards": a tile [k, c] for every column shard and one for the buffers, "bounds" of the shards, "held" rows of a tile.
`published` comes first. A round's tasks read the rows they need; rows that newer ones have replaced are let go with their layer, or when as
many are held in vain as are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from raysim.backends.base import Backend
from raysim.backends.left_behind import LeftBehind
from raysim.context import State
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.updates import Updates


def published(layers: list[State], backend: Backend) -> list[State]:
    """The layers with their tiles where tasks can read them; from a checkpoint these come as they are."""
    return [
        {
            **layer,
            "shards": [
                tile if isinstance(tile, LeftBehind) else LeftBehind(backend, backend.put(tile))
                for tile in layer["shards"]
            ],
        }
        for layer in layers
    ]


def rows_of(layers: list[State], like: Updates, clients: np.ndarray) -> Updates | None:
    """The rows of those `clients` (ids, ascending) that have one, cut as `like` is; None if nobody has."""
    blocks, found = [], []
    for layer in layers:
        members = np.flatnonzero(np.isin(layer["clients"], clients))
        if len(members):
            found.append(layer["clients"][members])
            blocks.append((layer["rows"][members], _tiles(layer, like)))
    if not found:
        return None
    ids = np.sort(np.concatenate(found))
    nothing = np.zeros((0, 0), np.float32)  # of rows that are only copied, no maximum is asked for
    return replace(
        like,
        client_ids=ids,
        num_examples=np.ones(len(ids), np.int64),
        blocks=tuple(
            RowBlock(np.searchsorted(ids, own), rows, tiles, nothing)
            for own, (rows, tiles) in zip(found, blocks, strict=True)
        ),
        ahead=(),
    )


def compared(
    layers: list[State], rows: Updates, stage: str, fn: Callable[..., float], *shared: object
) -> np.ndarray:
    """fn(row [d] float32, the client's last row [d] float32, *shared) -> number, of each of these rows: [K], NaN for a client without.

    A task for every row block, where its rows lie or most of the last ones do.
    """
    items, places = [], []
    for block in rows.blocks:
        clients = rows.client_ids[block.positions]
        pairs, tiles, compared = [], [*block.tiles[:-1]], []
        for layer in layers:
            _, own, last = np.intersect1d(clients, layer["clients"], return_indices=True)
            if len(own):
                pairs.append((block.rows[own], layer["rows"][last], len(layer["bounds"]) - 1))
                tiles += [tile.reference for tile in layer["shards"][:-1]]
                compared.append(block.positions[own])
        if pairs:
            places.append(np.concatenate(compared))
            items.append((len(block.tiles) - 1, pairs, len(tiles), *tiles, *shared))
    found = np.full(rows.num_clients, np.nan)
    for at, answers in zip(places, rows.backend.map(stage, partial(_compare, fn), items), strict=True):
        found[at] = answers
    return found


def with_rows(layers: list[State], rows: Updates) -> list[State]:
    """The layers after a round whose clients have these rows."""
    kept = []
    for layer in layers:
        stays = ~np.isin(layer["clients"], rows.client_ids)
        if stays.any():
            kept.append({**layer, "clients": layer["clients"][stays], "rows": layer["rows"][stays]})
    kept += _layers(rows)
    live = sum(len(layer["clients"]) for layer in kept)
    if sum(layer["held"] for layer in kept) > 2 * live:
        every = rows_of(kept, rows, np.concatenate([layer["clients"] for layer in kept]))
        assert every is not None, "the round has rows"
        kept = _layers(copied(every))
    return kept


def copied(rows: Updates) -> Updates:
    """The same rows in tiles of their own, shard by shard."""
    return rows.transform("history", _same)


def _layers(rows: Updates) -> list[State]:
    """A layer for every block of tiles in which rows lie."""
    return [
        {
            "clients": rows.client_ids[block.positions],
            "rows": block.rows,
            "shards": [LeftBehind(rows.backend, tile) for tile in block.tiles],
            "bounds": list(rows.bounds),
            "held": len(block.maxima),
        }
        for block in rows.for_columns
    ]


def _tiles(layer: State, like: Updates) -> tuple[Any, ...]:
    """The layer's tiles for tasks: as they lie, or cut anew."""
    if tuple(layer["bounds"]) == like.bounds:
        return tuple(tile.reference for tile in layer["shards"])
    tiles = [tile.value for tile in layer["shards"]]
    whole = np.concatenate(tiles, axis=1)
    recut = Updates.from_array(whole, like.backend, layout=like.layout, bounds=like.bounds)
    return recut.blocks[0].tiles


def _compare(
    fn: Callable[..., float],
    count: int,
    pairs: list[tuple[np.ndarray, np.ndarray, int]],
    held: int,
    *rest: Any,
) -> np.ndarray:
    """fn of rows in the first `count` of `held` tiles and of rows in those that follow: (rows, last rows, tiles) for each."""
    own, others, shared, answers = rest[:count], iter(rest[count:held]), rest[held:], []
    for rows, last_rows, number in pairs:
        lasts = [next(others) for _ in range(number)]
        for row, last in zip(rows, last_rows, strict=True):
            whole = (np.concatenate([tile[at] for tile in of]) for at, of in ((row, own), (last, lasts)))
            answers.append(fn(*whole, *shared))
    return np.array(answers)


def _same(columns: np.ndarray, first: int) -> np.ndarray:
    return columns
