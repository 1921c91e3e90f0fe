"""What labels mean: names in other orders, types of labels, codes that are far apart, labels that are not given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.data import load
from raysim.errors import DataError
from tests.data.test_data_parquet import encode

NAMES = ["ant", "bee", "cat", "dog"]


def write(file: Path, shown: list[int], labels: Any, names: list[str] | None = None) -> None:
    """Images whose pixels show their class, beside labels that say it in the file's own way."""
    table = pa.table({"image": pa.array([encode(60 * k) for k in shown], pa.binary()), "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def shown(images: np.ndarray) -> list[int]:
    return (images[:, 0, 0, 0] // 60).tolist()


@pytest.fixture
def rows() -> list[int]:
    return [3, 0, 1, 2, 0, 3, 1, 2]


@pytest.mark.parametrize("order", [[3, 2, 1, 0], [1, 0, 3, 2], [0, 1, 2, 3]])
def test_a_test_file_that_names_its_classes_in_another_order_is_matched_by_name(
    tmp_path: Path, rows: list[int], order: list[int]
):
    write(tmp_path / "train.parquet", rows, rows, NAMES)
    write(tmp_path / "test.parquet", rows, [order.index(k) for k in rows], [NAMES[k] for k in order])
    data = load("parquet", tmp_path)
    assert data.classes == tuple(NAMES)
    assert data.test.labels.tolist() == shown(data.test.images) == rows
    assert data.train.labels.tolist() == rows
    assert data.notes == ()


def test_a_second_file_of_one_split_is_matched_by_name(tmp_path: Path, rows: list[int]):
    write(tmp_path / "train-00000-of-00002.parquet", rows, rows, NAMES)
    write(tmp_path / "train-00001-of-00002.parquet", rows, [3 - k for k in rows], NAMES[::-1])
    data = load("parquet", tmp_path)
    assert data.train.labels.tolist() == shown(data.train.images)
    assert data.test.labels.tolist() == shown(data.test.images)


def test_names_of_one_file_hold_where_another_gives_numbers_or_names_alone(tmp_path: Path, rows: list[int]):
    write(tmp_path / "train.parquet", rows, rows, NAMES)
    write(tmp_path / "test.parquet", rows, rows)
    assert load("parquet", tmp_path).test.labels.tolist() == rows
    write(tmp_path / "test.parquet", rows, [NAMES[k] for k in rows])
    assert load("parquet", tmp_path).test.labels.tolist() == rows
    write(tmp_path / "test.parquet", [0], ["emu"])
    with pytest.raises(DataError, match=r"test\.parquet: column label: labels the training set lacks: emu"):
        load("parquet", tmp_path)


@pytest.mark.parametrize(
    "names", [[*NAMES[:3], "emu"], NAMES[:3], [*NAMES, "emu"], ["ant", "ant", "cat", "dog"]]
)
def test_other_class_names_are_refused(tmp_path: Path, names: list[str]):
    write(tmp_path / "train.parquet", [0, 1], [0, 1], NAMES)
    write(tmp_path / "test.parquet", [0, 1], [0, 1], names)
    with pytest.raises(DataError, match=r"test\.parquet.*must name the same classes"):
        load("parquet", tmp_path)


@pytest.mark.parametrize(
    "kind",
    [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [pa.dictionary(pa.int8(), pa.int16()), pa.dictionary(pa.int32(), pa.uint8())],
    ids=str,
)
@pytest.mark.parametrize("names", [None, NAMES])
def test_every_type_of_whole_number_loads(tmp_path: Path, rows: list[int], kind: pa.DataType, names: Any):
    labels = pa.array(np.array(rows, np.uint8))
    if pa.types.is_dictionary(kind):
        labels = labels.cast(kind.value_type).dictionary_encode().cast(kind)
    write(tmp_path / "train.parquet", rows, labels.cast(kind), names)
    data = load("parquet", tmp_path)
    assert data.classes == tuple(names or "0123")
    assert data.train.labels.tolist() == shown(data.train.images)
    assert data.test.labels.tolist() == shown(data.test.images)
    assert data.notes == ()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
@pytest.mark.parametrize("as_categories", [False, True])
def test_every_type_of_text_loads(tmp_path: Path, rows: list[int], kind: pa.DataType, as_categories: bool):
    labels = pa.array([NAMES[k] for k in rows], pa.string() if as_categories else kind)
    write(tmp_path / "train.parquet", rows, labels.dictionary_encode() if as_categories else labels)
    data = load("parquet", tmp_path)
    assert data.classes == tuple(NAMES)
    assert data.train.labels.tolist() == shown(data.train.images)


@pytest.mark.parametrize(
    "codes", [[1, 2, 3, 4], [10**6, 2 * 10**6, 3 * 10**6, 4 * 10**6], [0, 1, 2, 7], [5, 6, 7, 2**64 - 1]]
)
def test_codes_that_do_not_count_from_zero_are_mapped_and_that_is_said(
    tmp_path: Path, rows: list[int], codes: list[int]
):
    write(tmp_path / "train.parquet", rows, pa.array([codes[k] for k in rows], pa.uint64()))
    write(tmp_path / "test.parquet", [2, 3], pa.array([codes[2], codes[3]], pa.uint64()))
    data = load("parquet", tmp_path)
    assert data.classes == tuple(map(str, codes))
    assert data.train.labels.tolist() == rows
    assert data.test.labels.tolist() == [2, 3]
    (note,) = data.notes
    assert note.endswith(f"labels {', '.join(map(str, codes))} are classes 0..3, in this order")
    assert len(load("parquet", tmp_path, limit=1).classes) == 4


def test_a_note_on_many_codes_is_short(tmp_path: Path):
    write(tmp_path / "train.parquet", [0] * 100, list(range(1, 101)))
    (note,) = load("parquet", tmp_path).notes
    assert note.endswith("labels 1, 2, 3, 4, 5, ... (100) are classes 0..99, in this order")


def test_labels_that_training_does_not_know_are_refused(tmp_path: Path):
    write(tmp_path / "train.parquet", [0, 1], [0, 1])
    write(tmp_path / "test.parquet", [0, 3], [0, 3])
    with pytest.raises(DataError, match=r"test\.parquet: column label: labels the training set lacks: 3"):
        load("parquet", tmp_path)
    write(tmp_path / "test.parquet", [0, 1], ["0", "1"])
    with pytest.raises(DataError, match="labels the training set lacks: 0, 1"):
        load("parquet", tmp_path)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (pa.array([0.0, 1.0]), "holds values of type double; class labels are whole numbers or names"),
        (pa.array([0.0, float("nan")], pa.float32()), "holds values of type float"),
        (pa.array([[0], [1]]), "holds values of type list"),
        (pa.array([0, -1]), "holds the label -1, which stands for a label that is not given"),
        (pa.array([0, None]), "has 1 empty values"),
        (pa.array(["a", None]).dictionary_encode(), "has 1 empty values"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, part: str, labels: pa.Array, problem: str):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [0, 1], labels if split == part else [0, 1])
    with pytest.raises(DataError, match=rf"{part}\.parquet: column label {problem}"):
        load("parquet", tmp_path)


def test_numbers_beyond_the_names_are_refused(tmp_path: Path):
    write(tmp_path / "train.parquet", [0, 1], [0, 4], NAMES)
    with pytest.raises(DataError, match="holds the label 4, but there are names for 4 classes"):
        load("parquet", tmp_path)
    write(tmp_path / "train.parquet", [0, 1], [0, -1], NAMES)
    with pytest.raises(DataError, match="holds the label -1"):
        load("parquet", tmp_path)
