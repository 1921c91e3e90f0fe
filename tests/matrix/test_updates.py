"""The cohort matrix in tiles: every method against plain numpy on the assembled matrix, however it is cut."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from raysim.backends import devices
from raysim.backends.base import ACCELERATED, InProcessBackend, ThreadLimit
from raysim.backends.telemetry import num_bytes
from raysim.errors import ConfigError
from raysim.matrix.column_tasks import BLOCK_COLUMNS, TRANSFORM_COLUMNS
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.updates import (
    CHUNK_VALUES,
    Updates,
    chunk_columns,
    shard_bounds,
)

K, CHUNK = 7, 4096
LAYOUT = Layout(
    (Entry("a.weight", (50, 100), 0, 5000), Entry("a.bias", (200,), 5000, 5200), Entry("head", (3, 1500), 5200, 9700)),
    (Entry("mean", (6,), 9700, 9706), Entry("steps", (1,), 9706, 9707), Entry("more", (2,), 9707, 9709)),
    frozenset({"steps"}),
)  # fmt: skip
IDS = np.array([3, 8, 11, 12, 20, 21, 40])
EXAMPLES = np.array([10, 0, 30, 5, 5, 20, 30])
WHOLE = (0, 9700)
TILINGS = {
    "whole": (WHOLE, None),
    "row blocks": (WHOLE, 3),
    "column shards": ((0, 4096, 8192, 9700), None),
    "both": ((0, 8192, 9700), 2),
    "single rows": ((0, 4096, 8192, 9700), 1),
}
tilings = pytest.mark.parametrize("tiling", TILINGS)


@pytest.fixture(autouse=True)
def one_thread():
    with ThreadLimit(1)():
        yield


class Watching(InProcessBackend):
    """Counts the bytes that come back to the process that asked, kept results left out."""

    arrived = 0

    def map(self, stage, fn, items, *, keep=0, needs=None):
        results = super().map(stage, fn, items, keep=keep)
        self.arrived += num_bytes([answer for _, answer in results] if keep else results)
        return results


def matrix(rows=K, seed=0):
    draw = np.random.default_rng(seed)
    found = draw.standard_normal((rows, 9709)).astype(np.float32)
    found[:, 9706] = draw.integers(1, 100, rows)
    return found


def cut(tiling="whole", values=None, backend=None):
    bounds, per_block = TILINGS[tiling]
    return replace(
        Updates.from_array(
            matrix() if values is None else values, backend or Watching(), layout=LAYOUT, client_ids=IDS,
            num_examples=EXAMPLES, bounds=bounds, rows_per_block=per_block,
        ),
        chunk=CHUNK,
    )  # fmt: skip


# -- cutting --------------------------------------------------------------------------------------------


def test_chunks_are_a_power_of_two_near_the_wanted_size():
    for count in (1, 2, 7, 10, 100, 999, 1000, 1024, 1025, 3000, 5000):
        width = chunk_columns(count)
        assert width & (width - 1) == 0
        assert width >= 4096
        assert width * count <= max(CHUNK_VALUES, 4096 * count, 2 * count * count)
        assert width * 2 > CHUNK_VALUES / count
    assert [chunk_columns(count) for count in (1, 10, 100, 1000, 4096, 20_000)] == [
        2**24, 2**20, 2**17, 2**14, 2**13, 2**15
    ]  # fmt: skip
    assert chunk_columns(0) == 2**24
    assert chunk_columns(10) % BLOCK_COLUMNS == 0


def test_shards_are_whole_chunks_of_at_most_the_wanted_bytes():
    assert shard_bounds(1000, 40_000, 4096) == (0, 16384, 32768, 40_000)
    assert shard_bounds(1000, 40_000, 2 * 16384 * 1000 * 4) == (0, 32768, 40_000)
    assert shard_bounds(1000, 40_000, 2**40) == (0, 40_000)
    assert shard_bounds(1000, 32768, 4096) == (0, 16384, 32768)
    assert shard_bounds(5, 0, 4096) == (0, 0)


def test_rows_are_put_in_client_id_order():
    order = np.array([4, 0, 6, 2, 5, 1, 3])
    updates = Updates.from_array(
        matrix()[order], Watching(), layout=LAYOUT, client_ids=IDS[order],
        num_examples=EXAMPLES[order], rows_per_block=2,
    )  # fmt: skip
    np.testing.assert_array_equal(updates.client_ids, IDS)
    np.testing.assert_array_equal(updates.num_examples, EXAMPLES)
    np.testing.assert_array_equal(updates.to_array(buffers=True), matrix())


def test_defaults_of_a_bare_matrix():
    values = np.arange(6).reshape(2, 3)
    updates = Updates.from_array(values, InProcessBackend())
    assert (updates.num_clients, updates.dim, updates.bounds) == (2, 3, (0, 3))
    assert updates.client_ids.tolist() == [0, 1]
    assert updates.num_examples.tolist() == [1, 1]
    assert updates.to_array().dtype == np.float32
    np.testing.assert_array_equal(updates.to_array(), values)


def test_shares():
    np.testing.assert_array_equal(cut().shares, EXAMPLES / 100)
    nobody = replace(cut(), num_examples=np.zeros(K, np.int64))
    np.testing.assert_array_equal(nobody.shares, np.full(K, 1 / 7))


# -- every method, every tiling -------------------------------------------------------------------------


@tilings
def test_to_array(tiling):
    np.testing.assert_array_equal(cut(tiling).to_array(), matrix()[:, :9700])
    np.testing.assert_array_equal(cut(tiling).to_array(buffers=True), matrix())


def first_and_norm(block, factor):
    return [(row[0] * factor, len(row), float(np.linalg.norm(row.astype(np.float64)))) for row in block]


@tilings
def test_map_rows(tiling):
    found = cut(tiling).map_rows("norms", first_and_norm, 2)
    for row, (first, width, norm) in zip(matrix(), found, strict=True):
        assert (first, width) == (row[0] * 2, 9700)
        assert norm == pytest.approx(np.linalg.norm(row[:9700].astype(np.float64)), rel=1e-12)
    assert cut(tiling).map_rows("norms", first_and_norm, 2, buffers=True)[0][1] == 9709


def test_map_rows_wants_one_result_a_row():
    with pytest.raises(Exception, match="one result per row; got 1 for 7 rows"):
        cut().map_rows("short", lambda block: [0])


def centred_median(columns, centre, scale):
    return np.median(columns - centre, axis=0) * scale


@tilings
@pytest.mark.parametrize("length", [9700, 9709])
def test_map_columns_with_vectors_along(tiling, length):
    """Vectors [d] or longer, as arrays and as references."""
    updates = cut(tiling)
    centre = np.linspace(0, 1, length).astype(np.float32)
    scale = np.arange(length, dtype=np.float32)
    expected = np.median(matrix()[:, :9700] - centre[:9700], axis=0) * scale[:9700]
    for along in ((centre, scale), (updates.backend.put(centre), scale)):
        found = updates.map_columns("median", centred_median, *along)
        np.testing.assert_array_equal(found, expected)


def sums_and_count(columns):
    return np.append(columns.astype(np.float64).sum(axis=1), columns.shape[1])


@tilings
def test_reduce_columns(tiling):
    found = cut(tiling).reduce_columns("sums", sums_and_count)
    assert found[-1] == 9700
    np.testing.assert_allclose(found[:-1], matrix()[:, :9700].astype(np.float64).sum(axis=1), rtol=1e-10)


@tilings
def test_gram(tiling):
    wide = matrix()[:, :9700].astype(np.float64)
    updates = cut(tiling)
    gram = updates.gram()
    assert gram.dtype == np.float64
    np.testing.assert_allclose(gram, wide @ wide.T, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(gram, gram.T)
    centre = wide.mean(axis=0).astype(np.float32)
    expected = (wide - centre) @ (wide - centre).T
    for given in (centre, updates.backend.put(centre), updates.backend.put(np.append(centre, np.zeros(9)))):
        np.testing.assert_allclose(updates.gram(centre=given), expected, rtol=1e-12, atol=1e-9)


@tilings
def test_on_a_gpu_a_function_of_columns_is_given_tensors_in_their_type(tiling):
    """Wide ones, with the vectors along beside them; the results are those of arrays."""
    centre = np.linspace(0, 1, 9709).astype(np.float32)
    plain = cut(tiling)
    updates = cut(tiling, backend=InProcessBackend(accelerator=devices.REHEARSAL))
    np.testing.assert_allclose(updates.gram(), plain.gram(), rtol=1e-12)
    for along in (centre, updates.backend.put(centre)):
        found = updates.gram(centre=along)
        np.testing.assert_allclose(found, plain.gram(centre=centre), rtol=1e-12)
    seen = []

    def largest(columns, beside):
        seen.append((columns.dtype, beside.dtype, columns.shape[1]))
        return columns.amax(dim=0) + beside

    found = updates.map_columns("largest", largest, centre, needs=ACCELERATED)
    np.testing.assert_array_equal(found, matrix()[:, :9700].max(axis=0) + centre[:9700])
    assert {kinds[:2] for kinds in seen} == {(torch.float32, torch.float32)}
    assert sum(width for *_, width in seen) == 9700
    assert {span.stage: span.device for span in updates.backend.telemetry.drain()} == {
        "gram": devices.REHEARSAL,
        "largest": devices.REHEARSAL,
    }


@tilings
@pytest.mark.parametrize("used", [(0, 1, 2, 3, 4, 5, 6), (1, 2, 4, 5, 6), (3, 5), (6,)])
def test_combine(tiling, used):
    weights = np.zeros(K)
    weights[list(used)] = np.linspace(-1, 2, len(used)) + 0.1
    found = cut(tiling).combine(weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights @ matrix()[:, :9700].astype(np.float64), rtol=1e-6, atol=1e-6)


@tilings
def test_combine_buffers(tiling):
    weights = np.array([0, 0.5, 0, 0.25, 0.25, 0, 0])
    expected = weights @ matrix()[:, 9700:].astype(np.float64)
    expected[6] = matrix()[1, 9706]
    np.testing.assert_allclose(cut(tiling).combine_buffers(weights), expected, rtol=1e-6)


def test_combining_nothing_gives_zeros():
    assert not cut().combine(np.zeros(K)).any()
    assert not cut().combine_buffers(np.zeros(K)).any()
    bare = Updates.from_array(np.ones((2, 3)), InProcessBackend())
    assert bare.combine_buffers(np.ones(2)).shape == (0,)


def test_rows_without_weight_are_not_read():
    values = matrix()
    values[2], values[5] = np.nan, np.inf
    weights = np.array([0.2, 0.2, 0, 0.2, 0.2, 0, 0.2])
    assert np.isfinite(cut("both", values).combine(weights)).all()
    assert np.isfinite(cut("both", values).combine_buffers(weights)).all()


@tilings
def test_columns_of_one_parameter(tiling):
    updates = cut(tiling)
    for entry in LAYOUT.parameters:
        found = updates.columns(entry.name)
        assert found.shape == (K, *entry.shape)
        np.testing.assert_array_equal(found.reshape(K, -1), matrix()[:, entry.start : entry.stop])
    with pytest.raises(ConfigError, match=r"did you mean 'a.bias'\?"):
        updates.columns("a.bais")


@tilings
@pytest.mark.parametrize("members", [[0, 2, 5], [6], list(range(K))])
def test_select(tiling, members):
    mask = np.isin(np.arange(K), members)
    for chosen in (np.array(members), np.array(members[::-1]), mask):
        part = cut(tiling).select(chosen)
        np.testing.assert_array_equal(part.client_ids, IDS[members])
        np.testing.assert_array_equal(part.num_examples, EXAMPLES[members])
        np.testing.assert_array_equal(part.to_array(buffers=True), matrix()[members])
        np.testing.assert_array_equal(
            part.map_columns("max", lambda c: c.max(axis=0)), matrix()[members, :9700].max(0)
        )


def test_select_again_and_select_nobody():
    part = cut("both").select(np.array([1, 3, 4, 6])).select(np.array([False, True, False, True]))
    np.testing.assert_array_equal(part.client_ids, [12, 40])
    np.testing.assert_array_equal(part.to_array(), matrix()[[3, 6], :9700])
    nobody = cut("both").select(np.zeros(K, bool))
    assert nobody.num_clients == 0
    assert nobody.map_rows("none", list) == []


@tilings
def test_replace_rows_with_interleaved_ids(tiling):
    crafted = matrix(3, seed=9)
    ids = np.array([8, 20, 40])
    bounds, per_block = TILINGS[tiling]
    updates = cut(tiling)
    rows = Updates.from_array(
        crafted, updates.backend, layout=LAYOUT, client_ids=ids, num_examples=np.array([1, 2, 3]),
        bounds=bounds, rows_per_block=per_block and 2,
    )  # fmt: skip
    found = updates.replace_rows(rows)
    expected = matrix()
    expected[[1, 4, 6]] = crafted
    np.testing.assert_array_equal(found.client_ids, IDS)
    np.testing.assert_array_equal(found.num_examples, [10, 1, 30, 5, 2, 20, 3])
    np.testing.assert_array_equal(found.to_array(buffers=True), expected)
    np.testing.assert_array_equal(found.gram(), cut(values=expected).gram())
    np.testing.assert_array_equal(updates.to_array(buffers=True), matrix())


def test_replace_rows_adds_ids_that_were_not_there_and_refuses_other_cuts():
    updates = cut("both")
    rows = Updates.from_array(matrix(2, 1), updates.backend, layout=LAYOUT, client_ids=np.array([0, 13]), bounds=updates.bounds)  # fmt: skip
    assert updates.replace_rows(rows).client_ids.tolist() == [0, 3, 8, 11, 12, 13, 20, 21, 40]
    with pytest.raises(ValueError, match="cannot join"):
        updates.replace_rows(cut("whole").select(np.array([1])))


def double_the_rest(columns, first, shift):
    """Column by column: the first row's values stay; the others are doubled, shifted where there is a shift."""
    out = columns[:3] * 2
    out[0] = columns[0]
    if len(shift):
        out += shift
    return out + (1000 if first >= 9700 else 0)


@tilings
def test_transform_includes_the_buffer_columns(tiling):
    updates = cut(tiling)
    shift = np.arange(9700, dtype=np.float32)
    expected = matrix()[:3] * 2
    expected[0] = matrix()[0]
    expected[:, :9700] += shift
    expected[:, 9700:] += 1000
    for along in (shift, updates.backend.put(shift)):
        found = updates.transform("twice", double_the_rest, along, client_ids=np.array([5, 6, 9]))
        np.testing.assert_array_equal(found.to_array(buffers=True), expected)
    assert found.client_ids.tolist() == [5, 6, 9]
    assert found.num_examples.tolist() == [1, 1, 1]
    assert found.bounds == updates.bounds
    same = updates.transform(
        "same", lambda columns, first: columns + np.float32(first + np.arange(columns.shape[1]))
    )
    np.testing.assert_array_equal(same.num_examples, EXAMPLES)
    every = np.arange(matrix().shape[1], dtype=np.float32)
    np.testing.assert_array_equal(same.to_array(buffers=True), matrix() + every)
    assert updates.transform("t", lambda c, _: c, num_examples=np.arange(K)).num_examples.tolist() == list(
        range(K)
    )


def add(columns, first, shift):
    return columns + shift if len(shift) else columns


def test_vectors_along_are_empty_at_the_buffers_even_when_there_are_as_many_buffers_as_parameters():
    layout = Layout((Entry("w", (4,), 0, 4),), (Entry("b", (4,), 4, 8),))
    values = np.arange(16, dtype=np.float32).reshape(2, 8)
    updates = Updates.from_array(values, InProcessBackend(), layout=layout)
    shift = np.full(4, 100, np.float32)
    expected = values + np.repeat([100, 0], 4).astype(np.float32)
    for along in (shift, updates.backend.put(shift)):
        np.testing.assert_array_equal(updates.transform("add", add, along).to_array(buffers=True), expected)
    everywhere = np.full(8, 100, np.float32)
    for along in (everywhere, updates.backend.put(everywhere)):
        np.testing.assert_array_equal(
            updates.transform("add", add, along).to_array(buffers=True), values + 100
        )


# -- no result depends on the cut -----------------------------------------------------------------------


@pytest.mark.parametrize("members", [None, [0, 2, 3, 6], [4, 5]])
def test_sums_are_the_same_bytes_for_every_tiling(members):
    def results(tiling):
        updates = cut(tiling)
        if members is not None:
            updates = updates.select(np.array(members))
        weights = np.linspace(0.1, 1, updates.num_clients)
        some = weights * (np.arange(len(weights)) > 0)
        return [
            updates.gram(), updates.gram(centre=np.full(9700, 0.1, np.float32)),
            updates.reduce_columns("sums", sums_and_count), updates.combine(weights), updates.combine(some),
            updates.transform("same", lambda columns, _: columns * 3).gram(),
        ]  # fmt: skip

    expected = results("whole")
    for tiling in TILINGS:
        for found, wanted in zip(results(tiling), expected, strict=True):
            assert found.tobytes() == wanted.tobytes()


def test_rows_selected_from_a_big_cohort_keep_its_chunks():
    """The cut into shards follows the cohort; so must the sums over the few rows that are left of it."""
    values = np.random.default_rng(0).standard_normal((2100, 4300)).astype(np.float32)
    few = np.arange(0, 2100, 300)
    grams = []
    for tile_bytes in (4096, 2**30):
        bounds = shard_bounds(2100, 4300, tile_bytes)
        part = Updates.from_array(values, InProcessBackend(), bounds=bounds, rows_per_block=1000).select(few)
        assert part.chunk == chunk_columns(2100) == 4096
        grams.append(part.gram().tobytes())
        assert len(bounds) - 1 == (2 if tile_bytes == 4096 else 1)
    assert grams[0] == grams[1]


def test_transform_gives_a_few_thousand_columns_at_a_time_in_order():
    seen = []

    def note(columns, first):
        seen.append((first, columns.shape))
        return columns

    width = 2 * TRANSFORM_COLUMNS + 5
    updates = Updates.from_array(np.zeros((2, width), np.float32), InProcessBackend(), bounds=(0, width))
    updates.transform("note", note)
    steps = [(0, TRANSFORM_COLUMNS), (TRANSFORM_COLUMNS, TRANSFORM_COLUMNS), (2 * TRANSFORM_COLUMNS, 5)]
    assert seen == [(first, (2, count)) for first, count in steps]


@tilings
def test_pieces_of_each_shard_lie_along(tiling):
    updates = cut(tiling)
    shift = np.random.default_rng(0).random((2, 9700)).astype(np.float32)
    ends = [*updates.bounds, 9700]
    pieces = tuple(updates.backend.put(shift[:, first:last]) for first, last in pairwise(ends))

    def first_two(columns, first, pieces):
        return columns[:2] + pieces if pieces.shape[1] else columns[:2]

    def weighed(columns, pieces):
        return columns.sum(axis=0) * pieces[1]

    found = updates.transform("add", first_two, pieces, client_ids=np.array([1, 2])).to_array(buffers=True)
    np.testing.assert_array_equal(found[:, :9700], matrix()[:2, :9700] + shift)
    np.testing.assert_array_equal(found[:, 9700:], matrix()[:2, 9700:])
    by_shard = updates.map_columns("weigh", weighed, pieces)
    np.testing.assert_array_equal(by_shard, updates.map_columns("weigh", weighed, shift))
    np.testing.assert_array_equal(by_shard, weighed(matrix()[:, :9700], shift))


@tilings
def test_rows_gathered_one_by_one(tiling):
    some = cut(tiling).select(np.array([6, 1, 3]))
    np.testing.assert_array_equal(some.gather_rows(), matrix()[[1, 3, 6], :9700])


@tilings
def test_other_column_functions_see_blocks_that_cannot_be_changed(tiling):
    seen: list[int] = []

    def note(columns, along):
        assert (columns.dtype, columns.flags.writeable) == (dtype, False)
        seen.append(columns.shape[1])
        np.testing.assert_array_equal(columns, matrix()[:, along.astype(int)])
        return along

    updates = replace(cut(tiling), chunk=2 * CHUNK)
    place = np.arange(9700, dtype=np.float32)
    for dtype in (np.float32, np.float64):
        seen.clear()
        np.testing.assert_array_equal(updates.map_columns("note", note, place, dtype=dtype), place)
        assert sum(seen) == 9700
        assert max(seen) == BLOCK_COLUMNS
    total = updates.reduce_columns("note", lambda columns: np.array([columns.shape[1], 1]))
    assert total.tolist() == [9700, 3]


@tilings
def test_a_result_may_be_a_view_of_the_columns(tiling):
    updates = cut(tiling)
    np.testing.assert_array_equal(
        updates.map_columns("first", lambda columns: columns[0]), matrix()[0, :9700]
    )
    first = updates.reduce_columns("first", lambda columns: columns[:, 0])
    np.testing.assert_array_equal(first, matrix()[:, 0] + matrix()[:, 4096] + matrix()[:, 8192])


@pytest.mark.parametrize(("rows", "tasks"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 3)])
def test_few_rows_are_combined_in_few_tasks(rows, tasks):
    """Seven row blocks, three shards: a task takes so many shards that it reads no more than one shard of all rows."""
    updates = cut("single rows")
    weights = np.zeros(K)
    weights[K - rows :] = np.linspace(0.5, 1, rows)
    found = updates.combine(weights)
    assert len([span for span in updates.backend.telemetry.drain() if span.task >= 0]) == tasks
    assert found.tobytes() == cut("whole").combine(weights).tobytes()


# -- precision and memory -------------------------------------------------------------------------------


def test_near_duplicates_keep_their_distances_when_centred():
    """Rows that differ in the fifth digit: centred, their squared distances are right to 9 digits."""
    draw = np.random.default_rng(3)
    base = (100 * draw.standard_normal(20_000)).astype(np.float32)
    values = base + (1e-3 * draw.standard_normal((5, 20_000))).astype(np.float32)
    updates = Updates.from_array(values, InProcessBackend(), rows_per_block=2)
    gram = updates.gram(centre=values[0])
    squares = np.diag(gram)
    distances = squares[:, None] + squares - 2 * gram
    wide = values.astype(np.float64)
    expected = ((wide[:, None] - wide) ** 2).sum(axis=2)
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-12)


def test_only_to_array_brings_the_matrix_together():
    whole = K * 9700 * 4
    methods = {
        "map_rows": lambda u: u.map_rows("norms", first_and_norm, 1),
        "map_columns": lambda u: u.map_columns("median", partial(np.median, axis=0)),
        "reduce_columns": lambda u: u.reduce_columns("sums", sums_and_count),
        "gram": lambda u: u.gram(),
        "combine": lambda u: u.combine(u.shares),
        "combine_buffers": lambda u: u.combine_buffers(u.shares),
        "columns": lambda u: u.columns("a.bias"),
        "select": lambda u: u.select(np.array([0, 5])),
        "replace_rows": lambda u: u.replace_rows(u.select(np.array([0, 5]))),
        "transform": lambda u: u.transform("twice", lambda columns, _: columns * 2),
    }
    for method in methods.values():
        updates = cut("both")
        method(updates)
        assert updates.backend.arrived <= whole / 3
        tasks = [span for span in updates.backend.telemetry.drain() if span.task >= 0]
        assert all(span.bytes_out < whole for span in tasks)
    updates = cut("both")
    updates.to_array()
    assert updates.backend.arrived == whole


def test_selecting_and_replacing_run_no_task():
    updates = cut("both")
    updates.replace_rows(updates.select(np.array([0, 5])))
    assert updates.backend.telemetry.drain() == []


def test_tiles_cannot_be_changed_by_those_who_read_them():
    def spoil(block):
        block[0] = 0
        return list(block)

    with pytest.raises(Exception, match="read-only"):
        cut("whole").map_rows("spoil", spoil)
