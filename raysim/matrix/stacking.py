"""Stacks: copies of many small row blocks in few larger tiles, for tasks that read all rows of some columns.

Such a task is given a tile of every block. With a thousand workers there are two thousand blocks, and handing so many
references around costs the server, and the task, more than copying what lies behind them. So the tree has two floors: a
task stacks up to FAN tiles of a column shard where they lie, and column tasks are given the stacks. Work on rows keeps
its blocks, since there are as many as keep all workers busy. No result depends on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.row_blocks import RowBlock, Stack

if TYPE_CHECKING:
    from raysim.matrix.updates import Updates

FEW = 64
"""So many blocks are given to a column task as they are."""

FAN = 64
"""Most tiles that one task stacks."""

OBJECT_BYTES = 2**20
"""Tiles of so many bytes or more are not copied. One more argument takes some 35 microseconds of the server in every
stage, and as much of the task; a defense has several such stages, and memory is copied at several GB a second."""


def stacked(updates: Updates, stage: str = "stack") -> Updates:
    """The same rows, with stacks where their blocks are many and small: by a rule on numbers and shapes alone.

    A task for every column shard of a stack, whose blocks lie on one node.
    """
    blocks, backend = list(updates.blocks), updates.backend
    if len(blocks) <= FEW:
        return updates
    tiles = len(blocks[0].tiles)
    rows = sum(len(block.maxima) for block in blocks)
    tile_bytes = 4 * rows * updates.layout.num_columns / (len(blocks) * tiles)
    most = min(FAN, int(OBJECT_BYTES // max(tile_bytes, 1)))
    if most < 2:
        return updates
    homes = np.array(backend.homes([block.tiles[0] for block in blocks]))
    groups: list[np.ndarray] = []
    for home in dict.fromkeys(homes.tolist()):  # a stack lies where its blocks do
        here = np.flatnonzero(homes == home)
        groups += np.array_split(here, -(-len(here) // most))
    items = [
        tuple(blocks[number].tiles[tile] for number in group) for group in groups for tile in range(tiles)
    ]
    kept = iter(backend.map(stage, _stack, items, keep=1))
    for group in groups:
        made = tuple(next(kept)[0][0] for _ in range(tiles))
        first = 0
        for number in group:
            block = blocks[number]
            blocks[number] = replace(block, stack=Stack(block.tiles, made, first))
            first += len(block.maxima)
    return replace(updates, blocks=tuple(blocks))


def _stack(*tiles: np.ndarray) -> tuple[np.ndarray, None]:
    return np.concatenate(tiles), None


def for_columns(blocks: tuple[RowBlock, ...]) -> tuple[RowBlock, ...]:
    """The rows of these blocks as column tasks read them: those of one stack, or of the same tiles, in one block."""
    found: dict[int, list[tuple[tuple[Reference, ...], int, RowBlock]]] = {}
    for block in blocks:
        stack = block.stack
        held = stack is not None and stack.of is block.tiles
        tiles, first = (stack.tiles, stack.first) if stack is not None and held else (block.tiles, 0)
        found.setdefault(id(tiles), []).append((tiles, first, block))
    return tuple(
        parts[0][2] if len(parts) == 1 and parts[0][0] is parts[0][2].tiles else _together(parts)
        for parts in found.values()
    )


def _together(parts: list[tuple[tuple[Reference, ...], int, RowBlock]]) -> RowBlock:
    """One block of the rows of several, each with the tiles that they share and the row at which it begins there."""
    count = max(first + len(block.maxima) for _, first, block in parts)
    maxima = np.zeros((count, parts[0][2].maxima.shape[1]), np.float32)
    for _, first, block in parts:
        maxima[first : first + len(block.maxima)] = block.maxima
    positions = np.concatenate([block.positions for *_, block in parts])
    begins = np.repeat([first for _, first, _ in parts], [len(block.rows) for *_, block in parts])
    rows = begins + np.concatenate([block.rows for *_, block in parts])
    return RowBlock(positions, rows, parts[0][0], maxima)
