"""Functions of columns, one task a shard: what they are given, also beside the columns and on a GPU, and what comes of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from raysim.backends import devices
from raysim.backends.base import ACCELERATED, InProcessBackend
from raysim.matrix.column_tasks import BLOCK_COLUMNS, TRANSFORM_COLUMNS
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.updates import Updates
from tests.matrix.tilings import CHUNK, EXAMPLES, K, cut, matrix, sums_and_count, tilings

pytestmark = pytest.mark.usefixtures("one_thread")


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
