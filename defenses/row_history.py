"""A row [d] for every client a defense has seen, in tiles that stay where the rows were made.

State: {"layers": [...]}, each what one round left behind: "clients" [n] whose newest row is among its tiles, "rows" [n] where,
"shards": a tile [k, c] for every column shard and one for the buffers, "bounds" of the shards, "held" rows of a tile.
A round's tasks read the rows they need; rows that newer ones have replaced are let go with their layer, or when as
many are held in vain as are not.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from raysim.backends.left_behind import LeftBehind
from raysim.context import State
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.updates import Updates


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


def with_rows(layers: list[State], rows: Updates) -> list[State]:
    """The layers after a round whose clients have these rows, which lie in one block (as `transform` leaves them)."""
    kept = []
    for layer in layers:
        stays = ~np.isin(layer["clients"], rows.client_ids)
        if stays.any():
            kept.append({**layer, "clients": layer["clients"][stays], "rows": layer["rows"][stays]})
    kept.append(_layer(rows))
    live = sum(len(layer["clients"]) for layer in kept)
    if sum(layer["held"] for layer in kept) > 2 * live:
        every = rows_of(kept, rows, np.concatenate([layer["clients"] for layer in kept]))
        assert every is not None, "the round has rows"
        kept = [_layer(copied(every))]
    return kept


def copied(rows: Updates) -> Updates:
    """The same rows in tiles of their own, shard by shard."""
    return rows.transform("history", _same)


def _layer(rows: Updates) -> State:
    (block,) = rows.blocks
    return {
        "clients": rows.client_ids,
        "rows": block.rows,
        "shards": [LeftBehind(rows.backend, tile) for tile in block.tiles],
        "bounds": list(rows.bounds),
        "held": rows.num_clients,
    }


def _tiles(layer: State, like: Updates) -> tuple[Any, ...]:
    """The layer's tiles for tasks: as they lie, published again after a checkpoint, or cut anew."""
    if tuple(layer["bounds"]) == like.bounds:
        return tuple(
            tile.reference if isinstance(tile, LeftBehind) else like.backend.put(tile)
            for tile in layer["shards"]
        )
    tiles = [tile.value if isinstance(tile, LeftBehind) else tile for tile in layer["shards"]]
    whole = np.concatenate(tiles, axis=1)
    recut = Updates.from_array(whole, like.backend, layout=like.layout, bounds=like.bounds)
    return recut.blocks[0].tiles


def _same(columns: np.ndarray, first: int) -> np.ndarray:
    return columns
