"""Stacks: copies of many small row blocks in few larger tiles, for tasks that read all rows of some columns.

Such a task is given a tile of every block. With a thousand workers there are two thousand blocks, and handing that many
references around costs the server, and the task, more than copying what lies behind them. So there is a tree: a task stacks up
to FAN tiles of a column shard where they lie; if many stacks are left they are stacked again, and column tasks are given the
topmost: with small tiles one for each node. Work on rows keeps its blocks, since there are as many as keep all workers busy. No
result depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from raysim.backends.base import Reference
from raysim.matrix.row_blocks import RowBlock, Stack

if TYPE_CHECKING:
    from raysim.matrix.updates import Updates

FEW = 64
"""So many blocks are given to a column task as they are."""

FEW_STACKS = 8
"""So many stacks, or fewer, are not stacked once more."""

FAN = 64
"""Most tiles that one task stacks."""

OBJECT_BYTES = 2**20
"""Tiles of at least this size are not copied. One more argument takes some 35 microseconds of the server in every
stage, and as much of the task; a defense has several such stages, and memory is copied at several GB a second."""


@dataclass(frozen=True)
class _Piece:
    """Tiles with rows of some blocks: (number of the block, the row at which its tiles' rows begin) of each, and all rows."""

    tiles: tuple[Reference, ...]
    blocks: list[tuple[int, int]]
    rows: int


def stacked(updates: Updates, stage: str = "stack") -> Updates:
    """The same rows, with stacks where their blocks are many and small: by a rule on numbers and shapes alone.

    A task for every column shard of a stack, whose blocks lie on one node.
    """
    blocks = list(updates.blocks)
    pieces, few = [_Piece(block.tiles, [(n, 0)], len(block.maxima)) for n, block in enumerate(blocks)], FEW
    while len(pieces) > few:
        floor = _floor(updates, stage, pieces)
        if len(floor) == len(pieces):
            break
        pieces, few = floor, FEW_STACKS
    for piece in pieces:
        for number, first in piece.blocks:
            block = blocks[number]
            if piece.tiles is not block.tiles:
                blocks[number] = replace(block, stack=Stack(block.tiles, piece.tiles, first))
    return replace(updates, blocks=tuple(blocks)) if len(pieces) < len(blocks) else updates


def _floor(updates: Updates, stage: str, pieces: list[_Piece]) -> list[_Piece]:
    """These pieces, each with tiles of up to FAN of them that lie on one node; those alone on a node, and all that are too large
    to be copied, as they are."""
    backend, tiles = updates.backend, len(pieces[0].tiles)
    rows = sum(piece.rows for piece in pieces)
    tile_bytes = 4 * rows * updates.layout.num_columns / (len(pieces) * tiles)
    most = min(FAN, int(OBJECT_BYTES // max(tile_bytes, 1)))
    if most < 2:
        return pieces
    homes = np.array(backend.homes([piece.tiles[0] for piece in pieces]))
    groups: list[list[_Piece]] = []
    for home in dict.fromkeys(homes.tolist()):  # a stack lies where its blocks do
        here = np.flatnonzero(homes == home)
        parts = np.array_split(here, -(-len(here) // most))
        groups += [[pieces[number] for number in part] for part in parts]
    many = [group for group in groups if len(group) > 1]
    items = [tuple(piece.tiles[tile] for piece in group) for group in many for tile in range(tiles)]
    kept = iter(backend.map(stage, _stack, items, keep=1))
    made = []
    for group in groups:
        if len(group) == 1:
            made += group
            continue
        begins = np.cumsum([0, *(piece.rows for piece in group)]).tolist()
        of_blocks = [
            (number, begin + first)
            for piece, begin in zip(group, begins, strict=False)
            for number, first in piece.blocks
        ]
        made.append(_Piece(tuple(next(kept)[0][0] for _ in range(tiles)), of_blocks, begins[-1]))
    return made


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
    parts = sorted(parts, key=lambda part: part[1])
    begins = np.array([first for _, first, _ in parts])
    blocks = [block for *_, block in parts]
    heights = np.array([len(block.maxima) for block in blocks])
    if (begins[1:] == begins[:-1] + heights[:-1]).all() and not begins[0]:
        maxima = np.concatenate([block.maxima for block in blocks])
    else:
        maxima = np.zeros(((begins + heights).max(), blocks[0].maxima.shape[1]), np.float32)
        for first, block in zip(begins.tolist(), blocks, strict=True):
            maxima[first : first + len(block.maxima)] = block.maxima
    positions = np.concatenate([block.positions for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    rows = rows + np.repeat(begins, [len(block.rows) for block in blocks])
    return RowBlock(positions, rows, parts[0][0], maxima)
