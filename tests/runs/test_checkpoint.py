"""Checkpoints: what goes in comes out, whole or not at all, and damage is named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from raysim.backends.base import InProcessBackend
from raysim.backends.left_behind import LeftBehind
from raysim.errors import RecordError
from raysim.runs import checkpoint

STATE = {
    "round": 3,
    "vector": np.arange(5, dtype=np.float32),
    "tree": {
        "7": {"mean": np.eye(2), "count": 4, "names": ["a", "b"], "nothing": None, "on": True},
        "empty": np.zeros((0, 3), np.int8),
        "point": np.array(2.5),
        "mask": np.array([True, False]),
        "nested": [[np.array([1, 2]), 0.5], []],
        "array": "a key like the marker",
        "infinite": float("inf"),
    },
}


def same(left, right):
    """Equal trees, array types, shapes and bytes included."""
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            same(one, other)
    elif isinstance(left, np.ndarray):
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()
    else:
        assert left == right


def test_a_state_comes_back_as_it_was(tmp_path):
    path = checkpoint.save(tmp_path, 3, STATE, keep=2)
    assert path == tmp_path / "round-000003"
    same(checkpoint.load(path), STATE)


def test_what_tasks_left_behind_is_saved_in_files_of_its_own(tmp_path):
    backend, trees = InProcessBackend(), [{"keys": np.arange(3), "n": 2}, {"keys": np.zeros(0), "n": 3}]
    left = [LeftBehind(backend, backend.put(tree)) for tree in trees]
    path = checkpoint.save(tmp_path, 1, {"defense": {"tiles": left}, "x": np.ones(2)}, keep=1)
    assert len(list(path.glob("left-*.safetensors"))) == 2
    same(checkpoint.load(path), {"defense": {"tiles": trees}, "x": np.ones(2)})
    damaged = next(path.glob("left-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(RecordError, match=damaged.name):
        checkpoint.load(path)


def test_numbers_of_numpys_keep_their_type(tmp_path):
    """float32 times float64 is float64, times a Python float it is float32: the type decides later bytes."""
    state = {"a": np.float64(0.1), "b": np.float32(0.1), "c": np.int64(3), "d": np.bool_(True)}
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, state, keep=1))
    same(loaded, state)
    assert (np.float32(1) * loaded["a"]).dtype == np.float64


def test_keys_that_look_like_paths_do_not_collide(tmp_path):
    state = {"a/b": np.zeros(2), "a": {"b": np.ones(3)}}
    same(checkpoint.load(checkpoint.save(tmp_path, 1, state, keep=1)), state)


def test_arrays_in_any_memory_order_are_saved_by_value(tmp_path):
    values = np.arange(12).reshape(3, 4)
    loaded = checkpoint.load(checkpoint.save(tmp_path, 1, {"t": values.T, "s": values[:, ::2]}, keep=1))
    np.testing.assert_array_equal(loaded["t"], values.T)
    np.testing.assert_array_equal(loaded["s"], values[:, ::2])


def test_there_is_no_pickle_in_it(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, keep=1)
    assert sorted(item.name for item in path.iterdir()) == [
        "arrays.safetensors",
        "manifest.json",
        "state.json",
    ]
    assert json.loads((path / "state.json").read_text())["tree"]["round"] == 3
    assert len(load_file(path / "arrays.safetensors")) == 6


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (object(), "state at /defense/x holds a object"),
        ({1: 2}, "state at /defense/x has a key that is not a string"),
        ({3, 4}, "state at /defense/x holds a set"),
        (np.array(["text"]), "state at /defense/x holds an array of <U4"),
        (np.array([None]), "state at /defense/x holds an array of object"),
        (np.array([1j]), "state at /defense/x holds an array of complex128"),
        ([0, b"bytes"], "state at /defense/x/1 holds a bytes"),
    ],
)
def test_what_cannot_be_saved_is_named_and_nothing_is_left(tmp_path, value, problem):
    checkpoint.save(tmp_path, 1, STATE, keep=3)
    with pytest.raises(TypeError, match=problem):
        checkpoint.save(tmp_path, 2, {"defense": {"x": value}}, keep=3)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["round-000001"]


def test_the_newest_are_kept(tmp_path):
    for rounds_done in (1, 2, 10, 11):
        checkpoint.save(tmp_path, rounds_done, {"round": rounds_done}, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["round-000010", "round-000011"]
    assert checkpoint.load(checkpoint.checkpoints(tmp_path)[-1]) == {"round": 11}


def test_saving_a_round_again_replaces_it(tmp_path):
    checkpoint.save(tmp_path, 1, {"x": np.zeros(4)}, keep=2)
    checkpoint.save(tmp_path, 1, {"x": np.ones(2)}, keep=2)
    (path,) = checkpoint.checkpoints(tmp_path)
    np.testing.assert_array_equal(checkpoint.load(path)["x"], np.ones(2))


def test_a_half_written_checkpoint_is_none(tmp_path):
    """What a kill during `save` leaves: a folder with another name. The next save clears it away."""
    half = tmp_path / ".round-000002.tmp"
    half.mkdir()
    (half / "state.json").write_text("{")
    checkpoint.save(tmp_path, 1, {"round": 1}, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["round-000001"]
    checkpoint.save(tmp_path, 2, {"round": 2}, keep=2)
    assert not half.exists()
    assert checkpoint.checkpoints(tmp_path / "nowhere") == []


def flip_a_bit(file, place=-1):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["arrays.safetensors", "state.json", "manifest.json"])
def test_any_flipped_bit_is_refused(tmp_path, name):
    """The arrays' values are far from any structure a parser would notice: only the sum does."""
    path = checkpoint.save(tmp_path, 1, {"x": np.zeros(3)}, keep=1, configuration="0123")
    whole = (path / name).read_bytes()
    for place in range(len(whole)):
        flip_a_bit(path / name, place)
        with pytest.raises(RecordError, match=r"round-000001 is (damaged|foreign)"):
            checkpoint.load(path, "0123")
        (path / name).write_bytes(whole)
    assert checkpoint.load(path, "0123")["x"].tolist() == [0, 0, 0]


def test_a_checkpoint_of_another_configuration_is_foreign(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE, keep=1, configuration="one")
    same(checkpoint.load(path, "one"), STATE)
    same(checkpoint.load(path), STATE)
    with pytest.raises(RecordError, match="round-000001 is foreign: it was saved with another configuration"):
        checkpoint.load(path, "other")


@pytest.mark.parametrize("failing", ["save_file", "sync"])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(tmp_path, monkeypatch, failing):
    def full(*_):
        raise SafetensorError("I/O error: No space left") if failing == "save_file" else OSError(28, "full")

    checkpoint.save(tmp_path, 1, STATE, keep=1)
    monkeypatch.setattr(checkpoint, failing, full)
    with pytest.raises(OSError, match=r"No space left|full"):
        checkpoint.save(tmp_path, 2, STATE, keep=1)
    assert [item.name for item in tmp_path.iterdir()] == ["round-000001"]
    same(checkpoint.load(tmp_path / "round-000001"), STATE)


def damage_arrays(path):
    content = bytearray((path / "arrays.safetensors").read_bytes())
    (path / "arrays.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "damage",
    [
        damage_arrays,
        lambda path: flip_a_bit(path / "arrays.safetensors"),
        lambda path: flip_a_bit(path / "state.json"),
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "manifest.json").write_text("{}"),
        lambda path: (path / "arrays.safetensors").unlink(),
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").write_text('{"tree": {"round"'),
        lambda path: (path / "state.json").write_text('{"tree": {"x": {"array": "gone"}}}'),
        lambda path: (path / "state.json").write_text("[1, 2]"),
        lambda path: (path / "state.json").write_text('{"other": 1}'),
    ],
    ids=[
        "cut arrays",
        "bit of the arrays",
        "bit of the tree",
        "no manifest",
        "no sums",
        "no arrays",
        "no tree",
        "cut tree",
        "array gone",
        "no mapping",
        "no marker",
    ],
)
def test_damage_is_a_record_error_that_names_the_checkpoint(tmp_path, damage):
    path = checkpoint.save(tmp_path, 1, STATE, keep=1)
    damage(path)
    with pytest.raises(RecordError, match=r"round-000001 is damaged"):
        checkpoint.load(path)
