"""A matrix as a new round would bring it: rows dealt evenly to the nodes, every tile on its own node and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from raysim.backends.base import Backend
from raysim.backends.placement import Placed
from raysim.context import Context
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.updates import Updates
from raysim.studies.matrix import Matrix


class RoundMatrix:
    """A matrix that defenses are measured on, one after the other, on a backend.

    On several nodes the work of one defense leaves copies of tiles on other nodes than those they were made on, and
    the next would find them there: neither its seconds nor its bytes moved were those of a round. So `renew` comes
    before all that is measured: the tiles are copied, a few blocks at a time, and the old ones let go; the global
    vector is published again, and taken to every node, as clients that trained from it leave it. Block after block goes to
    one node after the other, as a run deals its clients: left to chance, one node would sometimes hold most rows, and get
    most of the work.

    anchors: see `anchor`, one for each node; none if there is but one node, and so nothing to renew.
    """

    def __init__(self, matrix: Matrix, backend: Backend, anchors: Sequence[Placed] = ()) -> None:
        self.truth = matrix.truth
        self._backend, self.anchors = backend, anchors
        self._blocks = list(matrix.updates.blocks)
        self._without_blocks = replace(matrix.updates, backend=backend, blocks=())
        self.context: Context = replace(matrix.context, backend=backend)

    @property
    def updates(self) -> Updates:
        """The rows; not to be kept beyond `renew`."""
        return replace(self._without_blocks, blocks=tuple(self._blocks))

    def renew(self) -> None:
        """Tiles anew, each on one node, and the global vector, on all."""
        if not self.anchors:
            return
        for first in range(0, len(self._blocks), self._backend.workers):
            stop = min(first + self._backend.workers, len(self._blocks))
            self._blocks[first:stop] = self._copies(first, stop)
        published = self._backend.put(self.context.global_vector)
        self._backend.map("renew", _taken, [(anchor, published) for anchor in self.anchors])
        self.context = replace(self.context, published=published)

    def _copies(self, first: int, stop: int) -> list[RowBlock]:
        blocks = self._blocks[first:stop]
        items = []
        for number, block in enumerate(blocks, start=first):
            # Not `made`: where they lie now draws no task.
            tiles = [
                Placed(tile.object, tile.size, tile.nodes) for tile in cast("Sequence[Placed]", block.tiles)
            ]
            items.append((self.anchors[number % len(self.anchors)], *tiles))
        copied = self._backend.map("renew", _copy, items, keep=len(blocks[0].tiles))
        return [
            replace(block, tiles=tiles, stack=None) for block, (tiles, _) in zip(blocks, copied, strict=True)
        ]


def anchor(backend: Backend, node: str) -> Placed:
    """An argument of next to no bytes that draws a task to a node, by its name in spans: where data lie is what counts."""
    return Placed(cast(Placed, backend.put(np.zeros(1))).object, 8, {node}, made=True)


def _copy(anchor: np.ndarray, *tiles: np.ndarray) -> tuple[object, ...]:
    return (*(tile.copy() for tile in tiles), None)


def _taken(anchor: np.ndarray, vector: np.ndarray) -> None:
    """What a task does that brings the vector to its node."""
