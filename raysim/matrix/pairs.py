"""Pairs: a symmetric K x K in tiles, each left where it was made.

Rows are cut into *sides* of nearly equal length by a rule that knows K alone (`cut`), never how many nodes, workers or
row blocks there are; a tile holds one side's rows against another's, in the lower triangle only. So the bytes of a tile,
and of all that is reduced from tiles in their order, do not depend on where tiles lie. Up to WHOLE_BYTES there is one
tile, and whatever is done with it is one task.

What needs a whole row of the matrix (its nearest, its median, its rank) is given strips of a few rows at a time
(`map_rows`); products and elementwise functions are formed tile by tile. K x K is put together by no method but
`to_array`, which refuses more than ARRAY_BYTES.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from raysim.backends.base import Backend, Needs, Reference
from raysim.errors import RunError
from raysim.matrix.pair_rows import pairs_above, row_degrees, row_maxima, row_medians, row_sums
from raysim.matrix.row_stage import Answer

WHOLE_BYTES = 2**24
"""A K x K of float64 with at most this many bytes (K = 1,448) stays one tile: a core reduces it in tens of
milliseconds, of which handing out pieces would save little."""

SIDE = 1024
"""Most rows of a side: a tile of 8 MiB in float64, for which a product in BLAS is as fast as for a larger one."""

LEAST_SIDES = 4
"""Sides of whatever is not one tile: of two there are three tiles, which two nodes cannot share evenly."""

STRIP_ROWS = 128
"""Rows of the matrix that a function of whole rows is given at a time: 20 MiB in float64 for K = 20,000."""

ARRAY_BYTES = 2**31
"""The most that one process ever puts together of a K x K: 2 GiB, K = 16,384 in float64."""


def cut(count: int) -> tuple[int, ...]:
    """Where the sides of K = count rows begin and end: (0, ..., K).

    >>> cut(1000), cut(2000), cut(5000)
    ((0, 1000), (0, 500, 1000, 1500, 2000), (0, 1000, 2000, 3000, 4000, 5000))
    """
    if is_whole(count):
        return (0, count)
    pieces = max(min(LEAST_SIDES, count), -(-count // SIDE))
    return tuple(count * place // pieces for place in range(pieces + 1))


def is_whole(count: int) -> bool:
    """Whether a K x K for K = count stays one tile."""
    return 8 * count * count <= WHOLE_BYTES


def largest_array(limit: int = ARRAY_BYTES) -> int:
    """The largest K of which a K x K of float64 has at most `limit` bytes.

    >>> largest_array()
    16384
    """
    return math.isqrt(limit // 8)


def places(bounds: Sequence[int]) -> list[tuple[int, int]]:
    """(side of the rows, side of the columns) of every tile, in the order in which tiles are held."""
    return [(i, j) for i in range(len(bounds) - 1) for j in range(i + 1)]


@dataclass(frozen=True)
class Pairs:
    """Values of all pairs of K things, K = bounds[-1]: tiles [..., a, b] for sides (0, 0), (1, 0), (1, 1), (2, 0), ...

    Leading axes, the same for all tiles, are several such matrices side by side.
    """

    backend: Backend
    bounds: tuple[int, ...]
    tiles: tuple[Reference, ...]

    @classmethod
    def whole(cls, values: np.ndarray, backend: Backend) -> Pairs:
        """One tile of values [..., K, K] that are in this process already."""
        return cls(backend, (0, values.shape[-1]), (backend.put(values),))

    @classmethod
    def make(
        cls,
        backend: Backend,
        bounds: tuple[int, ...],
        stage: str,
        fn: Callable[..., tuple[np.ndarray, object]],
        items: Sequence[tuple[object, ...]],
        needs: Needs = Needs(),
    ) -> tuple[Pairs, list[Any]]:
        """fn(*item) -> (tile [..., a, b], answer) for each of `places(bounds)`, a task per tile: the tiles, and the answers."""
        kept = backend.map(stage, fn, items, keep=1, needs=needs)
        return cls(backend, bounds, tuple(tile for (tile,), _ in kept)), [answer for _, answer in kept]

    @property
    def count(self) -> int:
        """Number K of rows."""
        return self.bounds[-1]

    @property
    def is_whole(self) -> bool:
        """Whether there is one tile."""
        return len(self.tiles) == 1

    @property
    def places(self) -> list[tuple[int, int]]:
        """(first row, first column) of every tile, in their order."""
        return [(self.bounds[i], self.bounds[j]) for i, j in places(self.bounds)]

    def map_tiles(
        self, stage: str, fn: Callable[..., np.ndarray], *along: np.ndarray, needs: Needs = Needs()
    ) -> Pairs:
        """fn(tile [..., a, b], *along of the tile's rows [a], *along of its columns [b]) -> tile, a task per tile.

        along: vectors [K]. A value may depend on its own pair only.
        """
        sides = [slice(first, last) for first, last in pairwise(self.bounds)]
        items = [
            (tile, *(v[sides[i]] for v in along), *(v[sides[j]] for v in along))
            for tile, (i, j) in zip(self.tiles, places(self.bounds), strict=True)
        ]
        made, _ = Pairs.make(self.backend, self.bounds, stage, partial(_kept, fn), items, needs)
        return made

    def map_rows(
        self, stage: str, fn: Callable[..., np.ndarray], *shared: object, needs: Needs = Needs()
    ) -> np.ndarray:
        """fn(rows [..., t, K], number of the first, *shared) -> [t, ...], a few rows at a time: [K, ...] in all.

        One task per side, which reads every tile of its rows. A row's result may depend on that row and `shared` only.
        """
        return np.concatenate(self._by_side(stage, partial(_on_strips, fn, self.bounds), shared, needs))

    def sum_over_rows(
        self, stage: str, fn: Callable[..., np.ndarray], *shared: object, needs: Needs = Needs()
    ) -> np.ndarray:
        """The sum, over all rows, of fn(rows [..., t, K], number of the first, *shared) -> array of any fixed shape.

        As `map_rows`, but added up in the order of rows where that is done.
        """
        parts = self._by_side(stage, partial(_summed, fn, self.bounds), shared, needs)
        total: np.ndarray = parts[0].copy()
        for part in parts[1:]:
            total += part
        return total

    def run(self, stage: str, fn: Callable[..., Answer], *shared: object, limit: int = ARRAY_BYTES) -> Answer:
        """fn(matrix [..., K, K], *shared) in one task, which alone puts it together; RunError above `limit`, as `to_array`."""
        self._require(limit)
        whole = partial(_on_whole, fn, self.bounds)
        return self.backend.run(stage, whole, len(self.tiles), *self.tiles, *shared)

    def spread(
        self, stage: str, fn: Callable[..., Answer], items: Sequence[tuple[object, ...]], limit: int
    ) -> list[Answer]:
        """fn(PairsHere, *item) for every item, a task each, which reads every tile; RunError above `limit`, as `to_array`.

        For work of many small steps on one matrix, each of which would be a stage of its own otherwise.
        """
        self._require(limit)
        given = [(len(self.tiles), *self.tiles, *item) for item in items]
        return self.backend.map(stage, partial(_here, fn, self.bounds), given)

    def dot(self, stage: str, columns: np.ndarray) -> np.ndarray:
        """The product with columns [..., K, s]: [..., K, s] float64; formed in the tiles' precision, tile by tile.

        One task per side, of the tiles that lie left of the diagonal in its rows. Their products are added up in the
        order of tiles.
        """
        given = self.backend.put(columns)
        sides = range(len(self.bounds) - 1)
        # The longest rows of tiles first: workers then end at about the same time.
        items = [(i, given, *self.tiles[_number(i, 0) : _number(i, i) + 1]) for i in reversed(sides)]
        parts = self.backend.map(stage, partial(_products, self.bounds), items)
        return _added(self.bounds, parts[::-1])

    def sums(self, stage: str) -> np.ndarray:
        """Row sums [K] float64."""
        return self.map_rows(stage, row_sums)

    def largest(self, stage: str) -> np.ndarray:
        """The largest value of every row [K]."""
        return self.map_rows(stage, row_maxima)

    def medians(self, stage: str) -> np.ndarray:
        """The median of every row [K], its own entry included."""
        return self.map_rows(stage, row_medians)

    def degrees(self, stage: str, threshold: float) -> np.ndarray:
        """How many others each row has a value above the threshold with: [K] int64."""
        return self.map_rows(stage, row_degrees, threshold)

    def above(self, stage: str, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(rows [e], columns [e], values [e]) of the pairs above the threshold, each once, with row > column; of one matrix.

        What crosses is these pairs; a task per tile.
        """
        items = [(*place, tile) for place, tile in zip(self.places, self.tiles, strict=True)]
        found = self.backend.map(stage, partial(pairs_above, threshold), items)
        rows, columns, values = (np.concatenate(part) for part in zip(*found, strict=True))
        return rows, columns, values

    def to_array(self, limit: int = ARRAY_BYTES) -> np.ndarray:
        """The whole matrix [..., K, K] in this process; RunError if it has more than `limit` bytes of float64."""
        self._require(limit)
        return put_together(self.bounds, [self.backend.get(tile) for tile in self.tiles])

    def _require(self, limit: int) -> None:
        if 8 * self.count**2 > limit:
            raise RunError(
                f"a matrix of {self.count:,} x {self.count:,} pairs is not put together in one process; "
                f"this method takes at most {largest_array(limit):,} clients a round"
            )

    def _by_side(
        self, stage: str, fn: Callable[..., Answer], shared: Sequence[object], needs: Needs
    ) -> list[Answer]:
        """fn(side, number of tiles, *tiles of its rows, *shared) for every side."""
        sides = range(len(self.bounds) - 1)
        items = []
        for side in sides:
            tiles = [self.tiles[_number(side, other)] for other in sides]
            items.append((side, len(tiles), *tiles, *shared))
        return self.backend.map(stage, fn, items, needs=needs)

    def with_tiles(self, tiles: dict[int, Reference]) -> Pairs:
        """The same with some tiles, by number, replaced."""
        return replace(self, tiles=tuple(tiles.get(number, tile) for number, tile in enumerate(self.tiles)))


@dataclass(frozen=True)
class PairsHere:
    """The same in one process, which has been given every tile: what `Pairs.spread` gives to a function."""

    bounds: tuple[int, ...]
    tiles: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        """Number K of rows."""
        return self.bounds[-1]

    def dot(self, stage: str, columns: np.ndarray) -> np.ndarray:
        """As `Pairs.dot`, in one pass over each tile."""
        sides = range(len(self.bounds) - 1)
        own = (self.tiles[_number(i, 0) : _number(i, i) + 1] for i in sides)
        return _added(
            self.bounds,
            [
                _products(self.bounds, i, columns, *tiles, height=STRIP_ROWS)
                for i, tiles in zip(sides, own, strict=True)
            ],
        )

    def map_rows(self, stage: str, fn: Callable[..., np.ndarray], *shared: object) -> np.ndarray:
        """As `Pairs.map_rows`."""
        sides = range(len(self.bounds) - 1)
        parts = []
        for side in sides:
            tiles = [self.tiles[_number(side, other)] for other in sides]
            parts.append(_on_strips(fn, self.bounds, side, len(tiles), *tiles, *shared))
        return np.concatenate(parts)


def put_together(bounds: Sequence[int], tiles: Sequence[np.ndarray]) -> np.ndarray:
    """The whole matrix [..., K, K] from its tiles."""
    if len(tiles) == 1:
        return tiles[0]
    whole = np.empty((*tiles[0].shape[:-2], bounds[-1], bounds[-1]), tiles[0].dtype)
    for tile, (i, j) in zip(tiles, places(bounds), strict=True):
        rows, columns = slice(bounds[i], bounds[i + 1]), slice(bounds[j], bounds[j + 1])
        whole[..., rows, columns] = tile
        whole[..., columns, rows] = tile.swapaxes(-1, -2)
    return whole


def strip(
    tiles: Sequence[np.ndarray], side: int, bounds: Sequence[int], first: int, last: int | None
) -> np.ndarray:
    """Rows [first, last) of a side, whole: [..., t, K], put together from the tiles in which they lie."""
    parts = [
        tile[..., first:last, :] if other <= side else tile[..., first:last].swapaxes(-1, -2)
        for other, tile in enumerate(tiles)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _number(i: int, j: int) -> int:
    """The number of the tile that holds sides i and j."""
    i, j = max(i, j), min(i, j)
    return i * (i + 1) // 2 + j


def _kept(fn: Callable[..., np.ndarray], *arguments: object) -> tuple[np.ndarray, None]:
    return fn(*arguments), None


def _on_strips(
    fn: Callable[..., np.ndarray], bounds: tuple[int, ...], side: int, count: int, *rest: Any
) -> np.ndarray:
    """What fn makes of the rows of one side."""
    return np.concatenate(list(_strips(fn, bounds, side, rest[:count], rest[count:])))


def _summed(
    fn: Callable[..., np.ndarray], bounds: tuple[int, ...], side: int, count: int, *rest: Any
) -> np.ndarray:
    """The sum of what fn makes of the rows of one side."""
    total: np.ndarray | None = None
    for part in _strips(fn, bounds, side, rest[:count], rest[count:]):
        total = np.array(part) if total is None else total + part
    assert total is not None, "a side has rows"
    return total


def _strips(
    fn: Callable[..., np.ndarray],
    bounds: tuple[int, ...],
    side: int,
    tiles: Sequence[np.ndarray],
    shared: Sequence[object],
) -> Iterator[np.ndarray]:
    height = bounds[side + 1] - bounds[side]
    for first in range(0, height, STRIP_ROWS):
        last = min(first + STRIP_ROWS, height)
        yield fn(strip(tiles, side, bounds, first, last), bounds[side] + first, *shared)


def _on_whole(fn: Callable[..., Answer], bounds: tuple[int, ...], count: int, *rest: Any) -> Answer:
    return fn(put_together(bounds, rest[:count]), *rest[count:])


def _here(fn: Callable[..., Answer], bounds: tuple[int, ...], count: int, *rest: Any) -> Answer:
    return fn(PairsHere(bounds, rest[:count]), *rest[count:])


def _added(bounds: Sequence[int], parts: Sequence[np.ndarray]) -> np.ndarray:
    """The product with columns, from what the tiles of each row of tiles add to it, in their order."""
    total = np.zeros(parts[-1].shape)
    for last, part in zip(bounds[1:], parts, strict=True):
        total[..., :last, :] += part
    return total


def _products(
    bounds: tuple[int, ...], side: int, columns: np.ndarray, *tiles: np.ndarray, height: int = 0
) -> np.ndarray:
    """What the tiles of one row of tiles, (side, 0) to (side, side), add to the product with columns [..., K, s].

    height: rows of a tile that are multiplied from both sides before the next, while they are in the cache; 0: all.
    """
    own = slice(bounds[side], bounds[side + 1])
    columns = columns.astype(tiles[0].dtype, copy=False)
    leading = np.broadcast_shapes(tiles[0].shape[:-2], columns.shape[:-2])
    total = np.zeros((*leading, bounds[side + 1], columns.shape[-1]))
    columns = np.broadcast_to(columns, (*leading, *columns.shape[-2:]))
    for layer in np.ndindex(
        leading
    ):  # numpy hands single matrices to BLAS as they lie, stacks of them not always
        sums, given = total[layer], columns[layer]
        for other, tile in enumerate(tiles):
            there = slice(bounds[other], bounds[other + 1])
            values = tile[layer] if tile.ndim > 2 else tile
            for first in range(0, len(values), height or len(values)):
                part = values[first : first + (height or len(values))]
                mine = slice(own.start + first, own.start + first + len(part))
                sums[mine] += part @ given[there]
                if other < side:
                    sums[there] += part.T @ given[mine]
    return total
