"""No sum depends on how the cohort matrix is cut; sums are precise; and nothing but `to_array` brings the matrix together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from raysim.backends.base import InProcessBackend
from raysim.matrix.updates import Updates, chunk_columns, shard_bounds
from tests.matrix.tilings import TILINGS, K, cut, first_and_norm, sums_and_count

pytestmark = pytest.mark.usefixtures("one_thread")


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
