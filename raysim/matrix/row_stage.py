"""Work on single rows of the update matrix, which can begin before the last row is there."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from raysim.backends.base import Backend, Begun, Needs, Reference

Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True)
class RowStage(Generic[Answer_co]):
    """A stage whose result for a row depends on that row and `shared` only.

    fn(rows, tiles, *shared) -> one result for each of `rows` (row numbers in the tiles): picklable. shared: values
    and references. buffers: whether the last of the tiles is the buffers'.
    key: two stages of one name and key give a row the same result within one round. None: not known, and the stage
    is never begun ahead.
    """

    name: str
    fn: Callable[..., Sequence[Answer_co]]
    shared: tuple[object, ...] = ()
    buffers: bool = True
    needs: Needs = Needs()
    key: tuple[Hashable, ...] | None = None

    @property
    def task(self) -> Callable[..., list[Answer_co]]:
        """What a task calls, with `arguments`."""
        return partial(_on_tiles, self.fn)

    def arguments(self, rows: np.ndarray, tiles: Sequence[Reference]) -> tuple[object, ...]:
        """The arguments of the task for these rows [m] of a row block."""
        used = tiles if self.buffers else tiles[:-1]
        return (rows, len(used), *used, *self.shared)


@dataclass(frozen=True)
class Ahead:
    """A row-stage task started early. client_ids: owner of each row; -1 if the row was replaced afterwards."""

    name: str
    key: tuple[Hashable, ...]
    client_ids: np.ndarray
    begun: Begun

    def without(self, client_ids: np.ndarray) -> Ahead:
        """The same where these clients' rows have become others."""
        return replace(self, client_ids=np.where(np.isin(self.client_ids, client_ids), -1, self.client_ids))


def begin_ahead(
    backend: Backend,
    stage: RowStage[object],
    number: int,
    client_ids: np.ndarray,
    rows: np.ndarray,
    tiles: Sequence[Reference],
) -> Ahead:
    """Begin the stage as task `number` on some rows of a row block, which are those of `client_ids`."""
    assert stage.key is not None, "a stage without a key is never asked for again"
    begun = backend.begin(stage.name, number, stage.task, *stage.arguments(rows, tiles), needs=stage.needs)
    return Ahead(stage.name, stage.key, client_ids, begun)


def finish_ahead(backend: Backend, stage: RowStage[Answer], ahead: Sequence[Ahead]) -> dict[int, Answer]:
    """{client: result} of what was begun of this stage and did not fail."""
    own = [
        part for part in ahead if stage.key is not None and (part.name, part.key) == (stage.name, stage.key)
    ]
    if not own:
        return {}
    answers = zip(own, backend.finish(stage.name, [part.begun for part in own]), strict=True)
    results = {
        int(client): result
        for part, answer in answers
        if answer is not None
        for client, result in zip(part.client_ids, answer, strict=True)
    }
    results.pop(-1, None)
    return results


def on_block(
    fn: Callable[..., Answer], rows: np.ndarray, tiles: Sequence[np.ndarray], *shared: object
) -> Answer:
    """fn(block [k, columns], *shared) of the rows, copied together unless they are one whole tile."""
    if len(rows) != len(tiles[0]) or (rows != np.arange(len(rows))).any():
        tiles = [tile[rows] for tile in tiles]
    return fn(tiles[0] if len(tiles) == 1 else np.concatenate(tiles, axis=1), *shared)


def read_columns(rows: np.ndarray, tiles: Sequence[np.ndarray], columns: slice) -> np.ndarray:
    """Columns of these rows [k, c], a copy put together from the tiles in which they lie."""
    parts, first = [np.empty((len(rows), 0), np.float32)], 0
    for tile in tiles:
        start, stop = max(columns.start - first, 0), min(columns.stop - first, tile.shape[1])
        if start < stop:
            parts.append(tile[rows, start:stop])
        first += tile.shape[1]
    return parts[1] if len(parts) == 2 else np.concatenate(parts, axis=1)


def _on_tiles(
    fn: Callable[..., Sequence[Answer]], rows: np.ndarray, count: int, *rest: object
) -> list[Answer]:
    results = list(fn(rows, rest[:count], *rest[count:]))
    if len(results) != len(rows):
        raise ValueError(
            f"a row function must return one result per row; got {len(results)} for {len(rows)} rows"
        )
    return results
