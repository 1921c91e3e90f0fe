"""Recorded updates: the same bytes back, and a damaged recording is refused."""

from __future__ import annotations

import numpy as np
import pytest

import raysim
from raysim import RecordError
from raysim.backends.base import InProcessBackend
from raysim.engine import recording
from raysim.matrix.layout import Entry, Layout
from raysim.matrix.updates import Updates

LAYOUT = Layout((Entry("w", (40,), 0, 40),), (Entry("m", (2,), 40, 42),))


def recorded(tmp_path, backend):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5, 42)).astype(np.float32)
    updates = Updates.from_array(
        rows, backend, layout=LAYOUT, client_ids=np.arange(5) * 3, num_examples=np.arange(5) + 1,
        bounds=(0, 16, 32, 40), rows_per_block=2,
    )  # fmt: skip
    vector = rng.normal(size=42).astype(np.float32)
    usable, truth = np.array([1, 1, 0, 1, 1], bool), np.array([0, 0, 1, 0, 1], bool)
    return recording.write(tmp_path, recording.Recording(4, vector, updates, usable, truth)), rows, vector


def test_a_recording_comes_back_byte_for_byte(tmp_path):
    backend = InProcessBackend()
    path, rows, vector = recorded(tmp_path, backend)
    assert recording.recorded_rounds(tmp_path) == [path]
    again = recording.read(path, LAYOUT, backend)
    assert (again.round, again.updates.bounds, len(again.updates.blocks)) == (4, (0, 16, 32, 40), 3)
    np.testing.assert_array_equal(again.updates.to_array(buffers=True), rows)
    np.testing.assert_array_equal(again.global_vector, vector)
    np.testing.assert_array_equal(again.updates.client_ids, [0, 3, 6, 9, 12])
    np.testing.assert_array_equal(again.updates.num_examples, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(again.usable, [True, True, False, True, True])
    np.testing.assert_array_equal(again.truth, [False, False, True, False, True])


def test_nodes_that_do_not_see_the_recording_get_the_tiles_from_here(tmp_path):
    class Elsewhere(InProcessBackend):
        """Tasks that read files find an empty disk."""

        def map(self, stage, fn, items, **options):
            assert stage == "load"
            return super().map(stage, fn, [(tmp_path / "unmounted", *rest) for _, *rest in items], **options)

    backend = InProcessBackend()
    path, rows, _ = recorded(tmp_path, backend)
    again = recording.read(path, LAYOUT, backend, Elsewhere())
    np.testing.assert_array_equal(again.updates.to_array(buffers=True), rows)


def test_selected_rows_are_recorded_as_selected(tmp_path):
    backend = InProcessBackend()
    _, rows, vector = recorded(tmp_path, backend)
    first = recording.read(recording.recorded_rounds(tmp_path)[0], LAYOUT, backend)
    part = first.updates.select(np.array([1, 4]))
    every = np.ones(2, bool)
    path = recording.write(tmp_path, recording.Recording(5, vector, part, every, every))
    np.testing.assert_array_equal(
        recording.read(path, LAYOUT, backend).updates.to_array(buffers=True), rows[[1, 4]]
    )


def test_a_changed_tile_is_refused(tmp_path):
    backend = InProcessBackend()
    path, _, _ = recorded(tmp_path, backend)
    tile = path / "tile-001-002.tensor"
    content = bytearray(tile.read_bytes())
    content[-9] ^= 1
    tile.write_bytes(content)
    with pytest.raises(RecordError, match=r"tile-001-002\.tensor was changed"):
        recording.read(path, LAYOUT, backend)
    tile.unlink()
    with pytest.raises(RecordError, match="damaged"):
        recording.read(path, LAYOUT, backend)


def test_a_recording_of_another_model_is_refused(tmp_path):
    backend = InProcessBackend()
    path, _, _ = recorded(tmp_path, backend)
    with pytest.raises(RecordError, match="42 values, not 41"):
        recording.read(path, Layout.flat(41), backend)


def test_a_run_keeps_its_updates_as_often_as_asked(tiny, tmp_path):
    config = {**tiny, "record": {"updates": True, "every": 2}}
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    rounds = recording.recorded_rounds(result.path / "updates")
    assert [path.name for path in rounds] == ["round-000000", "round-000002"]
    from raysim.composition.compose import compose

    last = recording.read(rounds[-1], compose(result.config).setup.layout, InProcessBackend())
    np.testing.assert_array_equal(last.updates.client_ids[last.truth], [8, 9])
    weights = np.array([row["weight"] for row in result.table("clients").to_pylist() if row["round"] == 2])
    moved = last.global_vector.copy()
    moved[: last.updates.dim] += last.updates.combine(weights)
    np.testing.assert_array_equal(moved, result.global_vector)
