"""Sums formed beside the rows: the same bits wherever rows lie, and nothing but sums crosses between nodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.matrix import row_sums
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.row_sums import cut_of_sum, fewer_tasks
from raysim.matrix.updates import Updates

LAYOUT = Layout(
    (Entry("weight", (90, 100), 0, 9000), Entry("bias", (700,), 9000, 9700)),
    (Entry("mean", (6,), 9700, 9706), Entry("steps", (1,), 9706, 9707)),
    frozenset({"steps"}),
)
BOUNDS = (0, 100, 4096, 8192, 9700)
K = 7


class Nodes(InProcessBackend):
    """Says that what was put or left behind lies on nodes, in turn, and keeps what each task was given."""

    def __init__(self, names: str) -> None:
        super().__init__()
        self.names = names
        self.home: dict[int, str] = {}
        self.given: list[tuple] = []
        self.kept: list[object] = []

    def put(self, value):
        held = super().put(value)
        self.home[id(held)] = self.names[len(self.home) // len(BOUNDS) % len(self.names)]
        self.kept.append(held)
        return held

    def homes(self, references):
        return [self.home[id(reference)] for reference in references]

    def map(self, stage, fn, items, **options):
        self.given += [(stage, item) for item in items]
        return super().map(stage, fn, items, **options)


def matrix(seed=0):
    found = np.random.default_rng(seed).standard_normal((K, LAYOUT.num_columns)).astype(np.float32)
    found *= 10.0 ** np.random.default_rng(1).integers(-6, 3, LAYOUT.num_columns).astype(np.float32)
    found[:, 9706] = np.arange(K) + 5
    return found


def updates(backend=None, rows_per_block=2, bounds=BOUNDS):
    return Updates.from_array(
        matrix(), backend or InProcessBackend(), layout=LAYOUT, bounds=bounds, rows_per_block=rows_per_block
    )


def sums(found, weights):
    centre = np.linspace(-1, 1, found.dim)
    return [
        found.combine(weights).tobytes(),
        found.sum_rows(weights).tobytes(),
        found.sum_rows(weights, squares_about=centre).tobytes(),
        found.combine_buffers(weights).tobytes(),
    ]


WEIGHTS = {
    "all": np.linspace(0.1, 0.9, K),
    "some": np.array([0, 0.5, 0, 0, -0.25, 0.5, 0]),
    "one": np.eye(K)[3],
    "none": np.zeros(K),
}


@pytest.mark.parametrize("which", WEIGHTS)
@pytest.mark.parametrize("names", ["a", "ab", "abc"])
@pytest.mark.parametrize(
    ("rows", "bounds"), [(None, (0, 9700)), (1, BOUNDS), (2, BOUNDS), (3, (0, 8192, 9700))]
)
def test_the_same_bits_on_any_nodes_in_any_tiles(which, names, rows, bounds):
    expected = sums(updates(rows_per_block=None, bounds=(0, 9700)), WEIGHTS[which])
    assert sums(updates(Nodes(names), rows, bounds), WEIGHTS[which]) == expected


def test_they_are_the_sums():
    values, weights = matrix().astype(np.float64), WEIGHTS["all"]
    found = updates()
    atol = 2.0**-40 * np.abs(values).max()
    np.testing.assert_allclose(found.sum_rows(weights), weights @ values[:, :9700], rtol=1e-9, atol=atol)
    np.testing.assert_array_equal(found.combine(weights), found.sum_rows(weights).astype(np.float32))
    centre = np.linspace(-1, 1, 9700)
    squares = weights @ (values[:, :9700] - centre) ** 2
    np.testing.assert_allclose(
        found.sum_rows(weights, squares_about=centre), squares, rtol=1e-9, atol=2.0**-40 * squares.max()
    )
    buffers = found.combine_buffers(weights)
    np.testing.assert_allclose(buffers[:6], weights @ values[:, 9700:9706], rtol=1e-6, atol=atol)
    assert buffers[6] == 5
    assert found.combine_buffers(WEIGHTS["some"])[6] == 6


def test_a_row_alone_is_the_row():
    assert updates(Nodes("ab")).combine(WEIGHTS["one"]).tobytes() == matrix()[3, :9700].tobytes()


def test_only_sums_cross():
    backend = Nodes("ab")
    found = updates(backend)
    backend.given.clear()
    found.combine(WEIGHTS["all"])
    tiles = {id(tile): backend.home[id(tile)] for block in found.blocks for tile in block.tiles}
    first, second = [item for _, item in backend.given[:4]], [item for _, item in backend.given[4:]]
    for item in first:
        assert len({tiles[id(argument)] for argument in item if id(argument) in tiles}) == 1
    assert len(second) == 2, "a node's task takes two of the four shards"
    assert all(id(argument) not in tiles for item in second for argument in item)
    crossing = sum(argument.value.nbytes for item in second for argument in item)
    assert crossing == 2 * 8 * found.dim


def test_where_nodes_are_many_each_adds_up_a_piece(monkeypatch):
    """Four nodes, of which each takes all four shards: 9,700 columns, added up in four tasks instead of one."""
    expected = sums(updates(), WEIGHTS["all"])
    monkeypatch.setattr(row_sums, "PIECE_BYTES", 100)
    backend = Nodes("abcd")
    found = updates(backend, rows_per_block=1)
    backend.given.clear()
    assert found.combine(WEIGHTS["all"]).dtype == np.float32
    added = [[argument.value.shape[0] for argument in item] for _, item in backend.given[4:]]
    assert added == [[2425] * 4] * 4
    assert sums(found, WEIGHTS["all"]) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "rows", "cut"),
    [
        (1, 1, 48, (5, 6, 1)),  # as many as 256 MiB allow
        (2, 2, 48, (7, 4, 1)),
        (16, 256, 160, (16, 2, 8)),
        (64, 1024, 640, (26, 1, 52)),  # a MiB each
    ],
)
def test_how_a_sum_is_cut(nodes, workers, rows, cut):
    assert cut_of_sum(26, 2**18, nodes, workers, rows=rows, tiles=2 * nodes) == cut


class Gathered(Nodes):
    """The columns of a shard lie together: even shards on one node, odd ones and the buffers on another."""

    def put(self, value):
        number, held = len(self.home) % len(BOUNDS), super().put(value)
        self.home[id(held)] = "ab"[number % 2 or number == len(BOUNDS) - 1]
        return held


@pytest.mark.parametrize("which", WEIGHTS)
def test_where_columns_lie_together_one_task_s_sum_is_whole(which):
    """Shards 0 and 2 on one node, 1 and 3 on the other, in tasks of one or two of them: put in order again."""
    backend = Gathered("a")
    found = updates(backend)
    backend.given.clear()
    assert sums(found, WEIGHTS[which]) == sums(updates(), WEIGHTS[which])
    tiles = {id(tile): backend.home[id(tile)] for block in found.blocks for tile in block.tiles}
    read = [[tiles[id(argument)] for argument in item if id(argument) in tiles] for _, item in backend.given]
    assert all(len(set(homes)) == 1 for homes in read), "no task adds partial sums"


def test_rows_that_cannot_be_used_are_not_read():
    values = matrix()
    values[2] = np.nan
    backend = InProcessBackend()
    found = Updates.from_array(values, backend, layout=LAYOUT, bounds=BOUNDS, rows_per_block=2)
    weights = np.where(np.arange(K) == 2, 0.0, 0.5)
    assert np.isfinite(found.combine(weights)).all()
    assert np.isnan(found.combine(np.ones(K))).all()


def test_maxima_follow_the_rows():
    found = updates().select(np.array([1, 4, 5]))
    doubled = found.transform("double", double)
    joined = updates().replace_rows(replace(doubled, client_ids=np.array([0, 2, 6])))
    for each in (found, doubled, joined):
        values = np.abs(each.to_array(buffers=True))
        maxima = np.empty((each.num_clients, 4), np.float32)
        for block in each.blocks:
            maxima[block.positions] = block.maxima[block.rows]
        edges = [0, 4096, 8192, 9700, 9707]
        expected = [values[:, a:b].max(axis=1) for a, b in pairwise(edges)]
        np.testing.assert_array_equal(maxima, np.stack(expected, axis=1))


def double(columns, first):
    return 2 * columns


@pytest.mark.parametrize(
    ("least", "shards", "workers", "tiles", "shard_bytes", "found"),
    [
        (1, 26, 1, 3, 2**25, 7),  # four tasks
        (1, 26, 16, 3, 2**25, 1),
        (8, 26, 1, 3, 2**25, 8),
        (1, 160, 2, 3, 2**26, 4),  # 256 MiB
        (1, 160, 2, 40, 2**20, 1),  # 64 tiles
        (1, 160, 2, 200, 2**29, 1),
    ],
)
def test_a_sum_is_not_cut_into_many_small_tasks(least, shards, workers, tiles, shard_bytes, found):
    assert fewer_tasks(least, shards, workers, tiles=tiles, shard_bytes=shard_bytes) == found
