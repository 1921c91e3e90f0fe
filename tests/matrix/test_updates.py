"""The cohort matrix in tiles: its rows, put in order, brought together, chosen, replaced and summed, however it is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.errors import ConfigError
from raysim.matrix.column_tasks import BLOCK_COLUMNS
from raysim.matrix.updates import CHUNK_VALUES, Updates, chunk_columns, shard_bounds
from tests.matrix.tilings import (
    EXAMPLES,
    IDS,
    LAYOUT,
    TILINGS,
    K,
    Watching,
    cut,
    first_and_norm,
    matrix,
    tilings,
)

pytestmark = pytest.mark.usefixtures("one_thread")


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


@tilings
def test_to_array(tiling):
    np.testing.assert_array_equal(cut(tiling).to_array(), matrix()[:, :9700])
    np.testing.assert_array_equal(cut(tiling).to_array(buffers=True), matrix())


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


@tilings
def test_rows_gathered_one_by_one(tiling):
    some = cut(tiling).select(np.array([6, 1, 3]))
    np.testing.assert_array_equal(some.gather_rows(), matrix()[[1, 3, 6], :9700])


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


@pytest.mark.parametrize(("rows", "tasks"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 3)])
def test_few_rows_are_combined_in_few_tasks(rows, tasks):
    """Seven row blocks, three shards: a task takes so many shards that it reads no more than one shard of all rows."""
    updates = cut("single rows")
    weights = np.zeros(K)
    weights[K - rows :] = np.linspace(0.5, 1, rows)
    found = updates.combine(weights)
    assert len([span for span in updates.backend.telemetry.drain() if span.task >= 0]) == tasks
    assert found.tobytes() == cut("whole").combine(weights).tobytes()
