"""Squared Euclidean distances between all rows of `Updates`, as Pairs: made tile by tile, each from the rows of two sides.

The arithmetic is that of distances.py: inner products of float32 rows, accumulated in float64 chunk by chunk in column
order, and again from differences where two rows lie too close together for that. What is close is told by each tile
as the edges of a forest, so that groups of close rows are found without a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from raysim.backends.base import ACCELERATED, Needs, Reference
from raysim.matrix.column_tasks import Columns, reduce_shard
from raysim.matrix.distances import CLOSE, nearest_of, nearest_sums, squared_distances
from raysim.matrix.pairs import Pairs, cut, is_whole, places
from raysim.matrix.row_products import squared_norms, squares_about
from raysim.matrix.updates import Updates

TASK_BYTES = 2**28
"""Bytes of rows that one task reads, at least one column shard: sums of a tile are carried from task to task."""

ROUGH_COLUMNS = 1024
"""Columns whose products are added up in float32: enough for BLAS to be twice as fast as in float64."""

ROUGH = 2.0 * ROUGH_COLUMNS * 2.0**-24 / (1.0 - ROUGH_COLUMNS * 2.0**-24)
"""Bound on the error of a rough distance, as a share of |a| |b|: twice that of an inner product of ROUGH_COLUMNS terms, in whatever
order they are added (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.1)."""

Edges = np.ndarray
"""Pairs of rows [e, 2] int64 that are close, as many as join every group of them."""


def pair_distances(updates: Updates, stage: str = "gram", *, about: np.ndarray | None = None) -> Pairs:
    """All squared distances, symmetric and exactly 0 between equal rows, float64 [K, K].

    about [d] float64: the rows minus this are what is multiplied, as for rows that lie around their mean; distances that
    are small beside those to `about` then keep what digits rounding leaves, about 1e-14 of the largest.
    """
    count = updates.num_clients
    if is_whole(count) and about is None:
        return Pairs.whole(squared_distances(updates, stage), updates.backend)
    bounds = cut(count)
    along: tuple[np.ndarray, ...] = ()
    if about is None:
        squares = squared_norms(updates, stage)
    else:
        squares, along = squares_about(updates, updates.backend.put(about), stage), (about,)
    sides = [np.arange(first, last) for first, last in pairwise(bounds)]
    tiles = [
        _Tile(
            sides[i],
            sides[j],
            squares[sides[i]],
            squares[sides[j]],
            kind="distances" if about is None else "raw distances",
        )
        for i, j in places(bounds)
    ]
    made = _over_columns(updates, stage, tiles, along, ACCELERATED)
    pairs = Pairs(updates.backend, bounds, tuple(tile for tile, _ in made))
    edges = _together([found for _, found in made])
    while len(edges):
        pairs, edges = _refined(updates, stage, pairs, edges)
    return pairs


def pair_products(
    updates: Updates, stage: str = "gram", *, about: np.ndarray | None = None, scale: np.ndarray | None = None
) -> tuple[Pairs, np.ndarray]:
    """Inner products of all rows float64 [K, K], and their diagonal [K]: as `Updates.gram`, left in tiles.

    about, scale [d] float64: of the rows minus `about`, their columns times `scale`; both or neither.
    """
    along = () if about is None or scale is None else (about, scale)
    bounds = cut(updates.num_clients)
    sides = [np.arange(first, last) for first, last in pairwise(bounds)]
    tiles = [_Tile(sides[i], sides[j], kind="products") for i, j in places(bounds)]
    made = _over_columns(updates, stage, tiles, along, ACCELERATED)
    pairs = Pairs(updates.backend, bounds, tuple(tile for tile, _ in made))
    return pairs, np.concatenate([found for _, found in made])


def rough_distances(updates: Updates, squares: np.ndarray, stage: str = "gram") -> Pairs:
    """Squared distances [K, K] from products in float32, which take half the time; squares [K]: of the rows' norms.

    A distance is wrong by at most ROUGH |a| |b|, and not made again where two rows are close.
    """
    bounds = cut(updates.num_clients)
    sides = [np.arange(first, last) for first, last in pairwise(bounds)]
    tiles = [
        _Tile(sides[i], sides[j], squares[sides[i]], squares[sides[j]], kind="raw distances")
        for i, j in places(bounds)
    ]
    made = _over_columns(updates, stage, tiles, (), ACCELERATED, rough=True)
    return Pairs(updates.backend, bounds, tuple(tile for tile, _ in made))


def products_with_rows(updates: Updates, members: np.ndarray, stage: str = "gram") -> np.ndarray:
    """Inner products of all rows with some of them, members [c] ascending: [K, c] float64 in this process, a task per side."""
    bounds = cut(updates.num_clients)
    tiles = [_Tile(np.arange(a, b), members, kind="products") for a, b in pairwise(bounds)]
    made = _over_columns(updates, stage, tiles, (), ACCELERATED)
    return np.concatenate([updates.backend.get(tile) for tile, _ in made])


def nearest_scores(
    distances: Pairs, stage: str, num_byzantine: int, *, squared: bool = True, neighbours: int | None = None
) -> np.ndarray:
    """What `krum_scores` says of these distances: [K] float64, a task per side."""
    wanted = nearest_of(distances.count, num_byzantine) if neighbours is None else neighbours
    return distances.map_rows(stage, partial(nearest_sums, neighbours=wanted, squared=squared))


def _refined(updates: Updates, stage: str, pairs: Pairs, edges: Edges) -> tuple[Pairs, Edges]:
    """Distances within groups of close rows again, from the rows minus the first of their group; what is still close.

    The first row becomes zero and is close to nothing any more, so that repeating this comes to an end.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = updates.num_clients
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    groups = connected_components(graph, directed=False)[1]
    first = np.full(count, count)
    np.minimum.at(first, groups, np.arange(count))
    alone = np.bincount(groups, minlength=count)[groups] < 2
    groups = np.where(alone, -1 - np.arange(count), groups)
    sides = [np.arange(a, b)[~alone[a:b]] for a, b in pairwise(pairs.bounds)]
    tiles, numbers = [], []
    for number, (i, j) in enumerate(places(pairs.bounds)):
        rows, columns = sides[i], sides[j]
        if np.isin(groups[rows], groups[columns]).any():
            shifts = first[groups[rows]], first[groups[columns]]
            offsets = (pairs.bounds[i], pairs.bounds[j])
            own = (groups[rows], groups[columns])
            tiles.append(_Tile(rows, columns, *own, shifts, pairs.tiles[number], offsets))
            numbers.append(number)
    made = _over_columns(updates, stage, tiles, (), Needs())
    changed = dict(zip(numbers, (tile for tile, _ in made), strict=True))
    return pairs.with_tiles(changed), _together([found for _, found in made])


@dataclass(frozen=True)
class _Tile:
    """What a tile is made of: rows [a] and columns [b], as numbers of the matrix's rows, and what is known of each.

    kind: what is asked for; of raw distances it is not told which are close. of_rows, of_columns: their squared norms; with `shifts` (the row that is subtracted from each) their groups, `old`
    being the tile in which distances within groups are replaced, and `offsets` the first row and column of that.
    """

    rows: np.ndarray
    columns: np.ndarray
    of_rows: np.ndarray = field(default_factory=lambda: np.zeros(0))
    of_columns: np.ndarray = field(default_factory=lambda: np.zeros(0))
    shifts: tuple[np.ndarray, np.ndarray] | None = None
    old: Reference = None
    offsets: tuple[int, int] = (0, 0)
    kind: Literal["products", "distances", "raw distances"] = "distances"

    @property
    def members(self) -> np.ndarray:
        """The rows of the matrix that are read, in ascending order."""
        return np.unique(np.concatenate([self.rows, self.columns, *(self.shifts or ())]))


def _over_columns(
    updates: Updates,
    stage: str,
    tiles: Sequence[_Tile],
    along: Sequence[object],
    needs: Needs,
    *,
    rough: bool = False,
) -> list[tuple[Reference, Edges]]:
    """Every tile, and what is close in it: a chain of tasks for each, which carry its sums from shards to shards."""
    works, shards = [], []
    multiply, dtype = (_rough_products, np.float32) if rough else (_products, np.float64)
    for tile in tiles:
        members = tile.members
        works.append(partial(reduce_shard, partial(multiply, *_where(tile, members)), dtype))
        shards.append(updates.select(members).shards(along))
    carried: list[Reference] = [None] * len(tiles)
    groups = _shard_groups(updates.bounds, max((len(tile.members) for tile in tiles), default=1))
    for start, stop in groups:
        last = stop == len(updates.bounds) - 1
        items = [
            (
                work,
                replace(tile, old=None) if last else None,
                stop - start,
                sums,
                tile.old if last else None,
                *(argument for shard in own[start:stop] for argument in shard),
            )
            for tile, work, own, sums in zip(tiles, works, shards, carried, strict=True)
        ]
        made = updates.backend.map(stage, _add, items, keep=1, needs=needs)
        carried = [sums for (sums,), _ in made]
    return [(tile, edges) for (tile,), edges in made] if tiles else []


def _shard_groups(bounds: Sequence[int], rows: int) -> list[tuple[int, int]]:
    """Consecutive shards whose tiles of `rows` rows take TASK_BYTES at most: (first, last)."""
    groups, start = [], 0
    for shard in range(1, len(bounds) - 1):
        if 4 * rows * (bounds[shard + 1] - bounds[start]) > TASK_BYTES:
            groups.append((start, shard))
            start = shard
    return [*groups, (start, len(bounds) - 1)]


def _where(tile: _Tile, members: np.ndarray) -> tuple[Any, ...]:
    """Where rows, columns and what is subtracted from them lie among the rows that are read."""
    found = [_places(members, rows) for rows in (tile.rows, tile.columns, *(tile.shifts or ()))]
    return tuple(found) if tile.shifts else (*found, None, None)


def _places(members: np.ndarray, rows: np.ndarray) -> slice | np.ndarray:
    """A slice where they lie in a row, which need not be copied."""
    at = np.searchsorted(members, rows)
    in_a_row = len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all()
    return slice(int(at[0]), int(at[-1]) + 1) if in_a_row else at


def _products(
    rows: Any, columns: Any, from_rows: Any, from_columns: Any, values: Columns, *along: Columns
) -> Columns:
    """Inner products [a, b] in some columns [n, c]; of shifted rows also their squared norms, [a + 1, b + 1]."""
    if along:
        values = values - along[0]
    if len(along) > 1:
        values = values * along[1]
    if from_rows is None:
        same = isinstance(rows, slice) and isinstance(columns, slice) and rows == columns
        left = values[rows]
        products: Columns = left @ (left if same else values[columns]).T
        return products
    assert isinstance(values, np.ndarray), "what is close is not done on a GPU"
    left, right = values[rows] - values[from_rows], values[columns] - values[from_columns]
    total = np.zeros((len(left) + 1, len(right) + 1))
    total[:-1, :-1] = left @ right.T
    total[:-1, -1] = np.einsum("ic,ic->i", left, left)
    total[-1, :-1] = np.einsum("ic,ic->i", right, right)
    return total


def _rough_products(rows: Any, columns: Any, from_rows: Any, from_columns: Any, values: Columns) -> Columns:
    """Inner products [a, b] float64 in some columns [n, c] float32, ROUGH_COLUMNS of them at a time added up in float32."""
    left, right = values[rows], values[columns]
    total: Columns | None = None
    for first in range(0, values.shape[1], ROUGH_COLUMNS):
        part = slice(first, first + ROUGH_COLUMNS)
        products = left[:, part] @ right[:, part].T
        wide = products.astype(np.float64) if isinstance(products, np.ndarray) else products.double()
        total = wide if total is None else total + wide
    assert total is not None, "columns are given only if there are any"
    return total


def _add(
    work: Callable[..., list[np.ndarray]],
    tile: _Tile | None,
    count: int,
    total: np.ndarray | None,
    old: np.ndarray | None,
    *arguments: Any,
) -> tuple[np.ndarray, Edges | None]:
    """The products of `count` shards, chunk by chunk, added to the total so far; at the end the tile they make."""
    each = len(arguments) // count
    for place in range(count):
        for part in work(*arguments[place * each : (place + 1) * each]):
            total = part if total is None else total + part
    assert total is not None, "a matrix has at least one shard"
    if tile is None:
        return total, None
    if tile.kind == "products":
        return total, np.diagonal(total).copy() if tile.rows[0] == tile.columns[0] else np.zeros(0)
    return _distances(tile, total) if old is None else _replaced(tile, total, old)


def _distances(tile: _Tile, products: np.ndarray) -> tuple[np.ndarray, Edges]:
    """Squared distances, and which are too small against the norms to be trusted."""
    sums = tile.of_rows[:, None] + tile.of_columns
    products *= -2.0
    products += sums
    distances = np.maximum(products, 0.0, out=products)
    sums *= CLOSE
    close = distances < sums
    if tile.rows[0] == tile.columns[0]:
        np.fill_diagonal(distances, 0.0)
        np.fill_diagonal(close, False)
    return distances, _forest(tile, close if tile.kind == "distances" else close[:0])


def _replaced(tile: _Tile, products: np.ndarray, old: np.ndarray) -> tuple[np.ndarray, Edges]:
    """The old tile with the distances within groups put in place, and which of these are still not to be trusted."""
    sums = products[:-1, -1:] + products[-1, :-1]
    distances = np.maximum(sums - 2.0 * products[:-1, :-1], 0.0)
    within = tile.of_rows[:, None] == tile.of_columns
    equal = tile.rows[:, None] == tile.columns
    distances[equal] = 0.0
    new = old.copy()
    rows, columns = tile.rows - tile.offsets[0], tile.columns - tile.offsets[1]
    new[np.ix_(rows, columns)] = np.where(within, distances, new[np.ix_(rows, columns)])
    return new, _forest(tile, (distances < CLOSE * sums) & within & ~equal)


def _forest(tile: _Tile, close: np.ndarray) -> Edges:
    """Edges between rows of the matrix that join whatever `close` [a, b] joins."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = np.nonzero(close)
    if not len(left):
        return np.zeros((0, 2), np.int64)
    graph = coo_array(
        (np.ones(len(left), bool), (left, len(tile.rows) + right)), shape=(sum(close.shape),) * 2
    )
    labels = connected_components(graph, directed=False)[1]
    nodes = np.concatenate([tile.rows, tile.columns])
    touched = np.unique(np.concatenate([left, len(tile.rows) + right]))
    _, first, inverse = np.unique(labels[touched], return_index=True, return_inverse=True)
    edges = np.stack([nodes[touched], nodes[touched[first[inverse]]]], axis=1)
    joined: Edges = edges[edges[:, 0] != edges[:, 1]]
    return joined


def _together(found: Sequence[Edges]) -> Edges:
    return np.concatenate([np.zeros((0, 2), np.int64), *found])
