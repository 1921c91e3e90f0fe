"""Weighted sums of rows, formed beside the rows: only what sums to [d] crosses from node to node (exact_sums.py).

A task adds, for a few column shards, the rows that lie on one node. Where the rows of a shard lie on several nodes,
each leaves a partial sum in float64, and another task adds these up. Where they have been brought together (gathering.py), one
task's sum is whole. How rows are grouped has no effect on a bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from raysim.backends.base import Backend
from raysim.matrix import exact_sums
from raysim.matrix.row_blocks import RowBlock

TASKS_A_WORKER = 4
"""Tasks that a sum is cut into for each worker: enough to be dealt evenly, few enough to be begun quickly."""

TASK_BYTES = 2**28
"""Of tiles that one task reads, at most, where it takes more column shards for their number's sake: the store keeps them meanwhile."""

TASK_TILES = 64
"""Of tiles likewise."""


PIECE_BYTES = 2**20
"""Of a partial sum that a task of its own adds up, at least: a link of 10 Gbit/s carries them while the server begins a task."""


class Cut(NamedTuple):
    """A sum's: column shards of a task, groups of them, pieces of each group that are added up apart."""

    shards: int
    groups: int
    pieces: int


@dataclass(frozen=True)
class Weighted:
    """The rows [k] of one row block that are summed, and their weights [k], none of which is 0."""

    block: RowBlock
    rows: np.ndarray
    weights: np.ndarray


Shards = list[tuple[int, tuple[int, int]]]
"""Column shards by number, each with its columns [first, last)."""


@dataclass(frozen=True)
class _Share:
    """What a task adds of one column shard: columns [first, last), C of their blocks, rows and weights by tile."""

    first: int
    last: int
    constants: np.ndarray
    rows: list[np.ndarray]
    weights: list[np.ndarray]


def weighted(blocks: Sequence[RowBlock], weights: np.ndarray) -> list[Weighted]:
    """The rows of weight other than 0 (NaN is), by row block; weights [K] in the order of positions."""
    found = []
    for block in blocks:
        own = np.asarray(weights, np.float64)[block.positions]
        used = np.flatnonzero(own)
        if len(used):
            found.append(Weighted(block, block.rows[used], own[used]))
    return found


def sum_parameters(
    backend: Backend,
    stage: str,
    parts: Sequence[Weighted],
    bounds: Sequence[int],
    *,
    shards_per_task: int = 1,
    centre: np.ndarray | None = None,
    dtype: DTypeLike = np.float64,
) -> np.ndarray:
    """sum_i w_i u_i [d] as dtype, of the rows of `parts`; with a centre [d], sum_i w_i (u_i - centre)^2."""
    constants = _constants(parts, slice(None, exact_sums.blocks_of(bounds[-1])), centre)
    homes = len(set(backend.homes([part.block.tiles[0] for part in parts])))
    cut = cut_of_sum(
        len(bounds) - 1,
        bounds[1] - bounds[0],
        homes,
        backend.workers,
        rows=sum(len(part.rows) for part in parts),
        tiles=len(parts),
        least=shards_per_task,
    )
    groups = [
        shards[at : at + cut.shards]
        for shards in _lying_alike(backend, parts, list(enumerate(pairwise(bounds))))
        for at in range(0, len(shards), cut.shards)
    ]
    return _sum(backend, stage, parts, groups, constants, centre, dtype, cut.pieces)


def cut_of_sum(
    shards: int, width: int, homes: int, workers: int, *, rows: int, tiles: int, least: int = 1
) -> Cut:
    """Of so many column shards of `width` columns, if the rows lie in so many tiles, evenly on `homes` nodes. least: shards a task.

    A node's task reads its own rows alone: it takes more shards, for as many bytes. Where groups are fewer than nodes, what each
    node leaves of a group is cut further, so that every node adds up its part.
    """
    each = fewer_tasks(
        least * homes,
        shards,
        max(1, workers // homes),
        tiles=-(-tiles // homes),
        shard_bytes=4 * -(-rows // homes) * width,
    )
    each = min(each, shards)
    groups = -(-shards // each)
    return Cut(each, groups, max(1, min(-(-homes // groups), 8 * each * width // PIECE_BYTES)))


def _lying_alike(backend: Backend, parts: Sequence[Weighted], shards: Shards) -> list[Shards]:
    """The shards, those together whose tiles lie on the same nodes: a task that reads all rows of some then need not leave the
    others' to partial sums.
    """
    found: dict[tuple[str, ...], Shards] = {}
    for shard in shards:
        lie = backend.homes([part.block.tiles[shard[0]] for part in parts])
        found.setdefault(tuple(lie), []).append(shard)
    return list(found.values())


def fewer_tasks(least: int, shards: int, workers: int, *, tiles: int, shard_bytes: int) -> int:
    """Column shards a task: `least`, or more, so that there are no more than TASKS_A_WORKER tasks for each of a node's workers.

    tiles, shard_bytes: what a task reads of one shard.
    """
    wanted = -(-shards // (TASKS_A_WORKER * workers))
    return max(least, min(wanted, TASK_BYTES // max(shard_bytes, 1), TASK_TILES // max(tiles, 1)))


def sum_buffers(backend: Backend, stage: str, parts: Sequence[Weighted], dim: int, width: int) -> np.ndarray:
    """The same of the buffer columns [b], float64."""
    constants = _constants(parts, slice(exact_sums.blocks_of(dim), None), None)
    return _sum(backend, stage, parts, [[(-1, (0, width))]], constants, None, np.float64, 1)


def _constants(parts: Sequence[Weighted], blocks: slice, centre: np.ndarray | None) -> np.ndarray:
    """C of every block of columns."""
    weights = np.concatenate([part.weights for part in parts])
    maxima = np.concatenate([part.block.maxima[part.rows, blocks] for part in parts])
    if centre is None:
        return exact_sums.constants(exact_sums.weighted_bounds(weights, maxima))
    return exact_sums.constants(
        exact_sums.squared_bounds(weights, maxima, exact_sums.largest(centre[None])[0])
    )


def _sum(
    backend: Backend,
    stage: str,
    parts: Sequence[Weighted],
    groups: Sequence[Shards],
    constants: np.ndarray,
    centre: np.ndarray | None,
    dtype: DTypeLike,
    pieces: int,
) -> np.ndarray:
    """Each group of shards on its own, by tasks. pieces: of a group's partial sums."""
    items: list[list[tuple[object, ...]]] = []
    for group in groups:
        tiles = [[part.block.tiles[shard] for part in parts] for shard, _ in group]
        homes = backend.homes([tile for of_shard in tiles for tile in of_shard])
        items.append([])
        for home in dict.fromkeys(homes):
            shares, arguments, at = [], [], iter(homes)
            for (_, (first, last)), of_shard in zip(group, tiles, strict=True):
                here = [number for number in range(len(parts)) if next(at) == home]
                start, stop = first // exact_sums.BLOCK, exact_sums.blocks_of(last)
                shares.append(
                    _Share(
                        first, last, constants[start:stop],
                        [parts[number].rows for number in here], [parts[number].weights for number in here],
                    )
                )  # fmt: skip
                arguments += [of_shard[number] for number in here]
            cut = None if centre is None else np.concatenate([centre[slice(*own)] for _, own in group])
            items[-1].append((shares, cut, *arguments))
    alone = all(len(of_group) == 1 for of_group in items)
    every = [item for of_group in items for item in of_group]
    if alone:
        sums = backend.map(stage, partial(add_tiles, dtype), every)
    else:
        kept = iter(backend.map(stage, partial(_left_there, pieces), every, keep=pieces))
        left = [[next(kept)[0] for _ in of_group] for of_group in items]
        partial_sums = [piece for of_group in left for piece in zip(*of_group, strict=True)]
        sums = backend.map(stage, partial(add_partial_sums, dtype), partial_sums)
    return _in_order(np.concatenate(sums), [columns for group in groups for _, columns in group])


def _in_order(values: np.ndarray, pieces: Sequence[tuple[int, int]]) -> np.ndarray:
    """Values of columns [first, last) of each piece, one after the other, as those of all columns [d]."""
    if list(pieces) == sorted(pieces):
        return values
    ordered, begin = np.empty_like(values), 0
    for first, last in pieces:
        ordered[first:last] = values[begin : begin + last - first]
        begin += last - first
    return ordered


def add_tiles(
    dtype: DTypeLike, shares: list[_Share], centre: np.ndarray | None, *tiles: np.ndarray
) -> np.ndarray:
    """The sums of column shards side by side, [columns] as dtype; centre: of these columns."""
    total, at, begin = np.zeros(sum(share.last - share.first for share in shares)), 0, 0
    for share in shares:
        own = tiles[at : at + len(share.rows)]
        at += len(share.rows)
        columns = slice(begin, begin + share.last - share.first)
        begin = columns.stop
        middle = None if centre is None else centre[columns]
        exact_sums.add_rows(
            total[columns], own, share.rows, share.weights, share.constants, share.first, middle
        )
    return as_type(total, dtype)


def add_partial_sums(dtype: DTypeLike, *partial_sums: np.ndarray) -> np.ndarray:
    """What several nodes left of the same columns, added up."""
    total = partial_sums[0].copy()
    for other in partial_sums[1:]:
        total += other
    return as_type(total, dtype)


def as_type(total: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Rounded once; what float32 does not reach becomes infinite."""
    with np.errstate(over="ignore"):
        return total.astype(dtype, copy=False)


def _left_there(
    pieces: int, shares: list[_Share], centre: np.ndarray | None, *tiles: np.ndarray
) -> tuple[np.ndarray | None, ...]:
    """A node's partial sum of a group, in so many pieces of nearly equal width."""
    return (*np.array_split(add_tiles(np.float64, shares, centre, *tiles), pieces), None)
