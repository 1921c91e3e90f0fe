"""Shards: what is written is what is read, by rows; damaged or incomplete folders are refused by name."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysim.data import dataset, load, normalise, shards
from raysim.data.assignment import AllBut, OwnerRuns
from raysim.data.dataset import Dataset
from raysim.data.partition import Natural
from raysim.data.shard_writer import write_shards
from raysim.data.shards import Column, Index, check
from raysim.errors import ConfigError, DataError

SIZES = np.array([3, 0, 5, 1, 4, 0, 2])
"""Samples of seven clients, two of them without any."""


def samples(dtype: str, shape: tuple[int, ...], count: int = 15) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(5)
    return draw.integers(0, 100, (count, *shape)).astype(dtype), draw.integers(0, 4, count)


def clients(inputs: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    ends = np.cumsum(SIZES)
    for first, last in zip(ends - SIZES, ends, strict=True):
        yield inputs[first:last], labels[first:last]


def written(folder: Path, dtype: str = "uint8", shape: tuple[int, ...] = (1, 2, 2), **options) -> Index:
    whole = samples(dtype, shape)
    most = 5 * whole[0][0].astype(np.float32 if dtype == "float64" else dtype).nbytes
    return write_shards(folder, clients(*whole), whole, classes=4, **{"shard_bytes": most, **options})


@pytest.mark.parametrize(
    ("dtype", "shape", "scale", "read", "factor"),
    [
        ("uint8", (1, 2, 2), None, "uint8", 1),
        ("uint8", (3,), None, "int64", 1),
        ("uint16", (6,), None, "int64", 1),
        ("int64", (2, 3), None, "int64", 1),
        ("uint8", (4,), 0.5, "float32", 0.5),
        ("int32", (2, 2, 2), 2.0, "float32", 2),
        ("float16", (5,), None, "float32", 1),
        ("float32", (3, 4, 2), None, "float32", 1),
        ("float64", (3,), None, "float32", 1),
    ],
)
def test_any_shape_and_type_comes_back(dtype, shape, scale, read, factor, tmp_path):
    inputs, labels = samples(dtype, shape)
    index = written(tmp_path, dtype, shape, scale=scale)
    assert [part.clients for part in index.train] == [2, 1, 3, 1]  # never more than 5 samples, clients whole
    assert [part.rows for part in index.train] == [3, 5, 5, 2]
    whole, lazy = (load("shards", tmp_path, store=store) for store in ("memory", "shards"))
    expected = inputs.astype(read) * np.dtype(read).type(factor)
    for data in (whole, lazy):
        assert data.train.images.dtype == read
        assert data.train.images.shape == (15, *shape)
        np.testing.assert_array_equal(data.train.images[:], expected)
        np.testing.assert_array_equal(data.train.labels[:], labels)
        np.testing.assert_array_equal(data.test.images, expected)
        np.testing.assert_array_equal(data.owners[:], np.repeat(np.arange(7), SIZES))
        order = np.array([14, 0, 7, 7, 3])
        np.testing.assert_array_equal(data.train.images[order], expected[order])
        assert normalise(data.train.images[:1], data.mean, data.std).shape == (1, *shape)
    assert isinstance(whole.train.images, np.ndarray)
    assert isinstance(lazy.train.images, Column)


def test_a_column_travels_as_a_place(tmp_path):
    written(tmp_path)
    column = load("shards", tmp_path).train.images
    column[:]  # what it has read does not travel
    sent = pickle.dumps(column)
    np.testing.assert_array_equal(pickle.loads(sent)[2:9], column[2:9])
    assert column.nbytes == 0
    assert len(sent) < 4000
    with pytest.raises(DataError, match="read by rows"):
        np.asarray(column)
    with pytest.raises(IndexError, match=r"0\.\.14"):
        column[np.array([15])]


def test_only_the_shards_of_the_rows_are_touched(tmp_path):
    written(tmp_path)
    column = load("shards", tmp_path).train.images
    for part in column.index.train[1:]:
        (tmp_path / part.file).unlink()
    np.testing.assert_array_equal(column[0:3], samples("uint8", (1, 2, 2))[0][:3])
    with pytest.raises(DataError, match=r"3 of 6 files are missing, train-00001.arrow first.*every machine"):
        column.require()


def test_the_disk_is_asked_for_what_will_be_read(tmp_path, monkeypatch):
    """Clients 0 and 4 hold samples 0 to 2 and 9 to 12, of 24 bytes; together 168 bytes are read ahead, and no more of 167."""
    inputs, labels = samples("uint8", (3,))
    write_shards(tmp_path, [(inputs, labels, SIZES)], (inputs, labels), classes=4)
    asked: list[tuple[str, list[int]]] = []
    plain = shards._Rows.expect
    monkeypatch.setattr(
        shards._Rows, "expect", lambda self, rows: asked.append(rows.tolist()) or plain(self, rows)
    )
    own = [np.arange(3), np.arange(9, 13)]
    train = load("shards", tmp_path).train
    for most, expected in ((168, own), (167, own[:1])):
        monkeypatch.setattr(dataset, "EXPECTED_BYTES", most)
        train.expect(own)
        assert asked == 2 * [rows.tolist() for rows in expected]  # inputs, then labels
        asked.clear()
    Dataset(train.images[:], train.labels[:]).expect(own)  # in memory
    np.testing.assert_array_equal(train.images[own[1]], inputs[9:13])


def test_several_clients_at_a_time_are_the_same(tmp_path):
    inputs, labels = samples("uint8", (1, 2, 2))
    one = written(tmp_path / "one")
    options = {"classes": 4, "shard_bytes": 20}
    assert write_shards(tmp_path / "all", [(inputs, labels, SIZES)], (inputs, labels), **options) == one
    two = [(inputs[:8], labels[:8], SIZES[:3]), (inputs[8:], labels[8:], SIZES[3:])]
    assert write_shards(tmp_path / "two", two, (inputs, labels), **options).digest == one.digest
    large = write_shards(tmp_path / "large", [(inputs, labels)], (inputs, labels), **options)
    assert [part.rows for part in large.train] == [15]  # a client is never cut


@pytest.mark.parametrize("left_out", [[], [0, 1, 2], [4, 8], [8, 9, 14]])
@pytest.mark.parametrize("num_clients", [1, 3, 4])
def test_runs_are_dealt_as_owners_are(left_out, num_clients):
    """Of samples sorted by owner the natural partition is known without a list of them."""
    runs, taken = OwnerRuns(np.concatenate([[0], np.cumsum(SIZES)])), np.array(left_out, np.int64)
    rest = np.delete(np.arange(15), taken)
    expected = Natural().split(rest, num_clients, np.random.default_rng(), runs[rest])
    found = Natural().split_runs(runs, num_clients, taken)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    for client in range(num_clients):
        np.testing.assert_array_equal(found.of(client), rest[expected.of(client)])
    assert isinstance(found.indices, AllBut)
    with pytest.raises(ConfigError, match=r"must lie in 1\.\.[45] \(the owners\)"):
        Natural().split_runs(runs, 6, taken)


def test_a_large_population_is_an_array_of_offsets():
    runs = OwnerRuns(np.arange(0, 3 * 10**6 + 1, 3))
    partition = Natural().split_runs(runs, 10**6, np.array([4, 2_999_999]))
    assert partition.num_clients == 10**6
    assert partition.indices.nbytes == 0
    assert partition.of(1).tolist() == [3, 5]
    assert partition.of(10**6 - 1).tolist() == [2_999_997, 2_999_998]


def replaced(folder: Path) -> None:
    """A shard of other samples, with size and index made to fit."""
    inputs, labels = samples("int64", (1, 2, 2), 3)
    other = folder / "other"
    write_shards(other, [(inputs, labels)], (inputs, labels), classes=4)
    shutil.move(other / "train-00000.arrow", folder / "train-00000.arrow")
    shutil.rmtree(other)
    index = json.loads((folder / "shards.json").read_text())
    index["train"][0]["bytes"] = (folder / "train-00000.arrow").stat().st_size
    (folder / "shards.json").write_text(json.dumps(index))


def cut_short(folder: Path) -> None:
    with (folder / "train-00002.arrow").open("r+b") as file:
        file.truncate(400)


def no_arrow(folder: Path) -> None:
    path = folder / "train-00001.arrow"
    path.write_bytes(bytes(path.stat().st_size))


def changed(key: str, value: object):
    def change(folder: Path) -> None:
        index = json.loads((folder / "shards.json").read_text())
        index[key] = value
        (folder / "shards.json").write_text(json.dumps(index))

    return change


def other_offsets(folder: Path) -> None:
    path = folder / "clients.arrow"
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    ends = batch.column(0).to_numpy().copy()
    ends[3] = 99
    with pa.ipc.new_file(path, batch.schema) as file:
        file.write_batch(pa.record_batch([pa.array(ends)], schema=batch.schema))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "shards.json").unlink(), "holds no shards.json, its index, which is written last"),
        (lambda folder: (folder / "train-00002.arrow").unlink(), "1 of 6 files are missing, train-00002.arrow first"),
        (lambda folder: (folder / "test.arrow").unlink(), "1 of 6 files are missing, test.arrow first"),
        (cut_short, r"train-00002.arrow has 400 bytes, the index says [\d,]+: it was cut short"),
        (no_arrow, r"train-00001.arrow: cannot be read as an Arrow file \(.*\): it is damaged"),
        (replaced, r"train-00000.arrow holds 3 rows of input: .*int64.*; the index says 3 rows of input: .*uint8"),
        (other_offsets, "clients.arrow: offsets must ascend from 0 to 15 for 7 clients"),
        (changed("version", 2), "shards.json: version: Input should be 1"),
        (changed("stored", "complex64"), "shards.json: stored: Input should be 'uint8'"),
        (changed("strange", 1), "shards.json: strange: Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused(damage, words, tmp_path):
    written(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        load("shards", tmp_path)


def test_a_flipped_bit_is_found_by_its_checksum(tmp_path):
    index = written(tmp_path)
    assert check(tmp_path) == index
    for name in ("train-00001.arrow", "clients.arrow"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=r"train-00001.arrow, clients.arrow: not what was written, by SHA-256"
    ):
        check(tmp_path)


def test_a_label_outside_the_classes_names_its_file(tmp_path):
    written(tmp_path)
    path = tmp_path / "train-00001.arrow"
    content = path.read_bytes()
    labels = samples("uint8", (1, 2, 2))[1][3:8].tobytes()
    assert content.count(labels) == 1
    path.write_bytes(content.replace(labels, labels[:8] + (77).to_bytes(8, "little") + labels[16:]))
    data = load("shards", tmp_path)
    assert data.train.labels[0:3].max() < 4
    with pytest.raises(DataError, match=r"train-00001.arrow: labels span 0\.\.77, but there are 4 classes"):
        data.train.labels[0:8]


def test_a_limit_is_refused(tmp_path):
    written(tmp_path)
    with pytest.raises(ConfigError, match="limit: must be null: shards hold whole clients"):
        load("shards", tmp_path, limit=5)


@pytest.mark.parametrize(
    ("block", "options", "words"),
    [
        ((np.zeros((2, 3), bool), np.zeros(2, int)), {}, r"client 1: inputs must be \[n, ...\] of uint8, .*not bool"),
        ((np.zeros((2, 3), np.int16), np.zeros(2, int)), {}, r"client 1: inputs must be uint8 \(3,\) as those of the f"),
        ((np.zeros((2, 4), np.uint8), np.zeros(2, int)), {}, r"client 1: .*not uint8 \(4,\)"),
        ((np.zeros((2, 3), np.uint8), np.zeros(3, int)), {}, r"client 1: labels must be integers \[2\], not int64 \(3,\)"),
        ((np.zeros((2, 3), np.uint8), np.array([0, 4])), {}, r"client 1: labels span 0\.\.4, but there are 4 classes"),
        ((np.zeros((2, 3), np.uint8), np.zeros(2, int), np.array([1, 2])), {}, "client 1 to 2: sizes must be"),
    ],
)  # fmt: skip
def test_what_cannot_be_stored_leaves_nothing(block, options, words, tmp_path):
    good = np.zeros((2, 3), np.uint8), np.zeros(2, int)
    with pytest.raises(DataError, match=words):
        write_shards(tmp_path / "new", [good, block], good, classes=4, shard_bytes=3, **options)
    assert list((tmp_path / "new").iterdir()) == []


def test_writing_refuses_what_is_there_and_nothing_at_all(tmp_path):
    written(tmp_path / "full")
    with pytest.raises(ConfigError, match="folder: must be new or empty"):
        written(tmp_path / "full")
    good = np.full((2, 3), np.inf), np.zeros(2, int)
    with pytest.raises(DataError, match="client 0: inputs must be finite"):
        write_shards(tmp_path / "new", [good], good, classes=4)
    none = np.zeros((0, 3)), np.zeros(0, int)
    with pytest.raises(DataError, match="no training samples"):
        write_shards(tmp_path / "new", [none], good, classes=4)
    with pytest.raises(DataError, match="the test set is empty"):
        write_shards(tmp_path / "new", [(np.zeros((2, 3)), np.zeros(2, int))], none, classes=4)
