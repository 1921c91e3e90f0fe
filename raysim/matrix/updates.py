"""The uploads of one round: a K x d matrix that lies in tiles where its rows were made.

The matrix is a grid. A *row block* is what one client host returned: the rows of a few clients. A *column
shard* is a fixed range of parameters, the same for all blocks. A tile is one row block in one shard; the
buffers (layout.py) are one more tile behind the last shard. K x d is gathered by no method but `gather_rows`
and `to_array`: rows are worked on block by block, columns shard by shard, each in a task that reads the tiles it
needs and walks them a few thousand columns at a time, so that what it works on stays in the cache.

Sums of rows are exact under any grouping (exact_sums.py), and formed where the rows lie. Sums over columns are formed
per *chunk*, a width that depends on the K rows that came in, and added in column order; rows selected or transformed
from them keep that width. So no result depends on how the matrix was cut into tiles (`shard_bounds` cuts at whole
chunks), or on which node a tile lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import DTypeLike

from raysim.backends.base import ACCELERATED, Backend, Needs, Reference
from raysim.matrix import column_tasks
from raysim.matrix.column_walk import Grid, steps
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import RowBlock, cut, maxima_of, put_together
from raysim.matrix.row_stage import Ahead, Answer, RowStage, finish_ahead, on_block
from raysim.matrix.row_sums import as_type, sum_buffers, sum_parameters, weighted
from raysim.matrix.stacking import for_columns

CHUNK_VALUES = 2**24
"""Values in one chunk of columns (64 MiB of float32): what is summed at a time."""

Along = np.ndarray | Reference | tuple[Reference, ...]
"""Columns beside the matrix's, [d] or [m, d]: an array, a reference to one at least as wide, or one reference per shard
(for `transform` also one for the buffers)."""


def chunk_columns(num_clients: int) -> int:
    """Width of a chunk: a power of two near CHUNK_VALUES / K, at least 4096 and at least about 2 K."""
    wanted = max(CHUNK_VALUES // max(num_clients, 1), 2 * num_clients, 4096)
    return 1 << (wanted.bit_length() - 1)


def shard_bounds(num_clients: int, dim: int, tile_bytes: int) -> tuple[int, ...]:
    """Column bounds (0, ..., d) of shards of whole chunks and at most about tile_bytes of K x shard float32.

    >>> shard_bounds(100, 13_706, 2**26)
    (0, 13706)
    """
    chunk = chunk_columns(num_clients)
    width = max(1, tile_bytes // (4 * max(num_clients, 1) * chunk)) * chunk
    return (*range(0, dim, width), dim) if dim else (0, 0)


@dataclass(frozen=True)
class Updates:
    """K client updates (local minus global, float32), rows in client-id order. Says nothing of who is malicious.

    client_ids [K] int64, num_examples [K] int64, layout (d = layout.dim), bounds: column shards, chunk: columns
    summed at a time (0: by the rule, from K). ahead: work on rows that was begun as they arrived.
    """

    backend: Backend
    layout: Layout
    client_ids: np.ndarray
    num_examples: np.ndarray
    bounds: tuple[int, ...]
    blocks: tuple[RowBlock, ...]
    chunk: int = 0
    ahead: tuple[Ahead, ...] = ()

    def __post_init__(self) -> None:
        if not self.chunk:
            object.__setattr__(self, "chunk", chunk_columns(self.num_clients))

    @classmethod
    def from_array(
        cls,
        deltas: np.ndarray,
        backend: Backend,
        *,
        layout: Layout | None = None,
        client_ids: np.ndarray | None = None,
        num_examples: np.ndarray | None = None,
        bounds: tuple[int, ...] | None = None,
        rows_per_block: int | None = None,
    ) -> Updates:
        """Cut a matrix [K, d] (or [K, d + b]) that is already in this process into tiles.

        Rows are put in client-id order; client_ids defaults to 0..K-1, num_examples to ones.
        """
        count = len(deltas)
        ids = np.arange(count) if client_ids is None else np.asarray(client_ids, dtype=np.int64)
        examples = np.ones(count, np.int64) if num_examples is None else np.asarray(num_examples, np.int64)
        order = np.argsort(ids, kind="stable")
        matrix = np.asarray(deltas, dtype=np.float32)
        layout = layout or Layout.flat(matrix.shape[1])
        bounds = bounds or shard_bounds(count, layout.dim, 4 * CHUNK_VALUES)
        per_block = rows_per_block or max(count, 1)
        blocks = []
        for first in range(0, count, per_block):
            members = order[first : first + per_block]
            in_order = (members == np.arange(first, first + len(members))).all()
            tiles = cut(matrix[first : first + per_block] if in_order else matrix[members], bounds)
            positions = np.arange(first, first + len(members))
            held = tuple(backend.put(tile) for tile in tiles)
            blocks.append(RowBlock(positions, np.arange(len(members)), held, maxima_of(tiles)))
        return cls(backend, layout, ids[order], examples[order], bounds, tuple(blocks))

    @property
    def num_clients(self) -> int:
        """Number K of rows."""
        return len(self.client_ids)

    @property
    def dim(self) -> int:
        """Number d of parameters."""
        return self.layout.dim

    @property
    def shares(self) -> np.ndarray:
        """Data shares p_i = n_i / sum n_j [K] float64; uniform when nobody claims an example."""
        total = self.num_examples.sum()
        if total <= 0:
            return np.full(self.num_clients, 1.0 / max(self.num_clients, 1))
        shares: np.ndarray = self.num_examples / total
        return shares

    @cached_property
    def for_columns(self) -> tuple[RowBlock, ...]:
        """The row blocks as tasks read them that are given all rows of some columns (stacking.py)."""
        return for_columns(self.blocks)

    def map_rows(
        self,
        stage: str,
        fn: Callable[..., Sequence[Answer]],
        *shared: object,
        buffers: bool = False,
        needs: Needs = Needs(),
    ) -> list[Answer]:
        """fn(block [k, d], *shared) -> k results; one task per row block. Returns K results in client order.

        buffers: the block is [k, d + b] instead. A result may depend on its own row and `shared` only.
        """
        return self.map_row_stage(RowStage(stage, partial(on_block, fn), shared, buffers, needs))

    def map_row_stage(self, stage: RowStage[Answer]) -> list[Answer]:
        """The stage's result for every row, K in client order.

        Waits for stages started early and runs the remaining rows, one task per row block.
        """
        ready = finish_ahead(self.backend, stage, self.ahead)
        missing = np.array([int(client) not in ready for client in self.client_ids], bool)
        results = cast("list[Answer]", [ready.get(int(client)) for client in self.client_ids])
        if ready and not missing.any():
            return results
        rest, places = self.select(missing) if ready else self, np.flatnonzero(missing)
        items = [stage.arguments(block.rows, block.tiles) for block in rest.blocks]
        answers = self.backend.map(stage.name, stage.task, items, needs=stage.needs)
        for block, answer in zip(rest.blocks, answers, strict=True):
            for position, result in zip(block.positions, answer, strict=True):
                results[places[position]] = result
        return results

    def map_columns(
        self,
        stage: str,
        fn: Callable[..., np.ndarray],
        *along: Along,
        dtype: DTypeLike = np.float32,
        shards_per_task: int = 1,
        needs: Needs = Needs(),
    ) -> np.ndarray:
        """fn(columns [K, c], *along [c]) -> [c], called for BLOCK_COLUMNS at a time in tasks of column shards. Returns [d].

        along: of which fn gets the same columns, [c] or [m, c]. A column's result may depend on that column only.
        dtype: what fn gets the columns as; they are read-only and gone after the call. With needs.accelerated, and where
        the task has a GPU, all that fn gets is tensors of dtype there, of more columns, and so is its result.
        """
        shards = self.shards(along)
        items = []
        for first, last in steps(0, len(shards), shards_per_task):
            group = shards[first:last]
            items.append((len(group), *(argument for shard in group for argument in shard)))
        parts = self.backend.map(stage, partial(column_tasks.map_shards, fn, dtype), items, needs=needs)
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def reduce_columns(
        self,
        stage: str,
        fn: Callable[..., np.ndarray],
        *along: Along,
        dtype: DTypeLike = np.float32,
        needs: Needs = Needs(),
    ) -> np.ndarray:
        """The sum of fn(columns [K, c], *along [c]) -> array of any fixed shape, over all columns.

        fn is called for BLOCK_COLUMNS at a time; its results are added up per chunk, and chunks in column order.
        along, dtype, needs: as in `map_columns`.
        """
        total: np.ndarray | None = None
        work = partial(column_tasks.reduce_shard, fn, dtype)
        for parts in self.backend.map(stage, work, self.shards(along), needs=needs):
            for part in parts:
                total = part if total is None else total + part
        assert total is not None, "a matrix has at least one shard"
        return total

    def transform(
        self,
        stage: str,
        fn: Callable[..., np.ndarray],
        *along: Along,
        client_ids: np.ndarray | None = None,
        num_examples: np.ndarray | None = None,
        needs: Needs = Needs(),
    ) -> Updates:
        """New rows from all rows, shard by shard, left where they are made: nothing is gathered.

        fn(columns [K, c], first_column, *along [c] or [m, c]) -> [m, c], column by column; called for TRANSFORM_COLUMNS at
        a time, and for the buffer columns, with first_column >= d (`along` that is only [d] wide has no columns there).
        client_ids [m]: whose rows these are (default: the same clients).
        """
        ids = self.client_ids if client_ids is None else np.asarray(client_ids, dtype=np.int64)
        examples = self.num_examples if client_ids is None else np.ones(len(ids), np.int64)
        if num_examples is not None:
            examples = np.asarray(num_examples, np.int64)
        items = self.shards(along, with_buffers=True)
        kept = self.backend.map(
            stage, partial(column_tasks.transform_shard, fn, len(ids)), items, keep=1, needs=needs
        )
        *parameters, buffers = [maxima for _, maxima in kept]
        maxima = put_together(list(zip(self.bounds, parameters, strict=False)), buffers, self.dim)
        every = np.arange(len(ids))
        block = RowBlock(every, every, tuple(references[0] for references, _ in kept), maxima)
        return replace(self, client_ids=ids, num_examples=examples, blocks=(block,), ahead=())

    def gram(self, stage: str = "gram", *, centre: np.ndarray | Reference | None = None) -> np.ndarray:
        """U U^T [K, K] float64, of rows minus `centre` [d] if that is given.

        Products of float32 rows, accumulated in float64 in column order.
        """
        if centre is None:
            return self.reduce_columns(stage, column_tasks.gram, dtype=np.float64, needs=ACCELERATED)
        centred = column_tasks.centred_gram
        return self.reduce_columns(stage, centred, centre, dtype=np.float64, needs=ACCELERATED)

    def columns(self, name: str, stage: str = "columns") -> np.ndarray:
        """One named parameter of all clients: [K, *shape] float32."""
        entry = self.layout.entry(name)
        pieces = []
        for shard, (first, last) in enumerate(pairwise(self.bounds)):
            start, stop = max(entry.start, first), min(entry.stop, last)
            if start < stop:
                pieces.append((shard, slice(start - first, stop - first)))
        slices, blocks = [piece for _, piece in pieces], self.for_columns
        items = [(block.rows, slices, *(block.tiles[shard] for shard, _ in pieces)) for block in blocks]
        out = np.empty((self.num_clients, entry.stop - entry.start), np.float32)
        for block, part in zip(blocks, self.backend.map(stage, column_tasks.slice_rows, items), strict=True):
            out[block.positions] = part
        return out.reshape(self.num_clients, *entry.shape)

    def combine(self, weights: np.ndarray, stage: str = "combine") -> np.ndarray:
        """The weighted sum of rows [d] float32, the same for any order and any tiles. weights [K]; rows of weight 0 are not read.

        Formed beside the rows, with the error that exact_sums.py states, and rounded once.
        """
        return self._sum(weights, stage, None, np.float32)

    def sum_rows(
        self, weights: np.ndarray, stage: str = "combine", *, squares_about: np.ndarray | None = None
    ) -> np.ndarray:
        """The same in float64, not rounded: [d]. squares_about: c [d] float64 to sum w_i (u_i - c)^2 instead."""
        return self._sum(weights, stage, squares_about, np.float64)

    def _sum(
        self, weights: np.ndarray, stage: str, centre: np.ndarray | None, dtype: DTypeLike
    ) -> np.ndarray:
        blocks = self.for_columns
        parts = weighted(blocks, weights)
        if not parts or not self.dim:
            return np.zeros(self.dim, dtype)
        # Where few row blocks are read, a task takes more shards: as many bytes as a shard of all rows has.
        each = len(blocks) // len(parts)
        return sum_parameters(
            self.backend, stage, parts, self.bounds, shards_per_task=each, centre=centre, dtype=dtype
        )

    def combine_buffers(self, weights: np.ndarray, stage: str = "buffers") -> np.ndarray:
        """The weighted sum of buffer changes [b] float32; integer counters are copied from the first row of weight > 0."""
        size = self.layout.num_columns - self.dim
        parts = weighted(self.for_columns, weights)
        if not size or not parts:
            return np.zeros(size, np.float32)
        total = as_type(sum_buffers(self.backend, stage, parts, self.dim, size), np.float32)
        counters = self.layout.counter_columns()
        if len(counters):
            total[counters] = self.buffers_of(int(np.flatnonzero(weights)[0]), stage)[counters]
        return total

    def buffers_of(self, position: int, stage: str = "buffers") -> np.ndarray:
        """The buffers [b] float32 of one row."""
        (block,) = self.select(np.array([position])).blocks
        rows: np.ndarray = self.backend.run(
            stage, column_tasks.slice_rows, block.rows, [slice(None)], block.tiles[-1]
        )
        buffers: np.ndarray = rows[0]
        return buffers

    def maxima(self) -> np.ndarray:
        """What `row_blocks.maxima_of` says of the rows, [K, n + m] float32 in client order; no tile is read."""
        parts = [block.maxima[block.rows] for block in self.blocks]
        order = np.argsort(np.concatenate([block.positions for block in self.blocks]))
        found: np.ndarray = np.concatenate(parts)[order]
        return found

    def select(self, members: np.ndarray) -> Updates:
        """The rows `members` (indices [m] or a mask [K]) as Updates; order stays client-id order."""
        members = np.asarray(members)
        keep = np.flatnonzero(members) if members.dtype == bool else np.sort(members)
        new_position = np.full(self.num_clients, -1)
        new_position[keep] = np.arange(len(keep))
        blocks = []
        for block in self.blocks:
            inside = new_position[block.positions] >= 0
            if inside.any():
                places = new_position[block.positions[inside]]
                blocks.append(replace(block, positions=places, rows=block.rows[inside]))
        return replace(
            self,
            client_ids=self.client_ids[keep],
            num_examples=self.num_examples[keep],
            blocks=tuple(blocks),
        )

    def replace_rows(self, crafted: Updates) -> Updates:
        """These rows, with those of crafted.client_ids taken from `crafted`; no tile is read.

        Raises ValueError when the two are cut at different columns.
        """
        if crafted.bounds != self.bounds:
            raise ValueError(f"rows cut at columns {crafted.bounds} cannot join rows cut at {self.bounds}")
        stays = ~np.isin(self.client_ids, crafted.client_ids)
        honest = self.select(stays)
        ids = np.concatenate([honest.client_ids, crafted.client_ids])
        order = np.argsort(ids, kind="stable")
        position = np.empty(len(ids), np.int64)
        position[order] = np.arange(len(ids))
        moved = [replace(block, positions=position[block.positions]) for block in honest.blocks]
        moved += [
            replace(block, positions=position[honest.num_clients + block.positions])
            for block in crafted.blocks
        ]
        examples = np.concatenate([honest.num_examples, crafted.num_examples])[order]
        ahead = tuple(part.without(crafted.client_ids) for part in self.ahead)
        return replace(self, client_ids=ids[order], num_examples=examples, blocks=tuple(moved), ahead=ahead)

    def to_array(self, *, buffers: bool = False) -> np.ndarray:
        """The whole matrix [K, d] (or [K, d + b]) in this process. For tests, oracles and small matrices."""
        return np.stack(self.map_rows("gather", list[np.ndarray], buffers=buffers))

    def gather_rows(self) -> list[np.ndarray]:
        """Every row's parameters [d] in an array of its own in this process, K in client order, read tile by tile."""
        rows = [np.empty(self.dim, np.float32) for _ in self.client_ids]
        for block in self.blocks:
            for reference, (first, last) in zip(block.tiles, pairwise(self.bounds), strict=False):
                tile = self.backend.get(reference)
                for position, row in zip(block.positions, block.rows, strict=True):
                    rows[position][first:last] = tile[row]
        return rows

    def shards(self, along: Sequence[object], with_buffers: bool = False) -> list[tuple[object, ...]]:
        """Arguments of one task per column shard: where rows go, columns, the tiles, then `along`."""
        blocks = self.for_columns
        positions, rows = [block.positions for block in blocks], [block.rows for block in blocks]
        whole = [not isinstance(vector, np.ndarray | tuple) for vector in along]
        bounds = list(pairwise(self.bounds))
        if with_buffers:
            bounds.append((self.dim, self.layout.num_columns))
        items = []
        for shard, (first, last) in enumerate(bounds):
            grid = Grid(positions, rows, self.num_clients, first, last, self.chunk, whole)
            sliced = (_of_shard(vector, shard, first, last) for vector in along)
            items.append((grid, *(block.tiles[shard] for block in blocks), *sliced))
        return items


def _of_shard(vector: Along, shard: int, first: int, last: int) -> np.ndarray | Reference:
    """What the task of one shard is given of an `along`; a whole one is cut there."""
    if isinstance(vector, tuple):
        return vector[shard]
    return vector[..., first:last] if isinstance(vector, np.ndarray) else vector
