import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysim.data import load
from raysim.data.parquet import find_files
from raysim.errors import ConfigError, DataError


def encode(value: int, shape: tuple[int, ...] = (4, 4, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full(shape, value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write(
    file: Path,
    values: list[int],
    columns: Mapping[str, object],
    *,
    image: str = "img",
    features: dict | None = None,
    plain: bool = False,
    row_group_size: int = 3,
    shape: tuple[int, ...] = (4, 4, 3),
) -> None:
    """A file of the hub's layout; image i is filled with values[i]."""
    encoded = [encode(value, shape) for value in values]
    if plain:
        pictures = pa.array(encoded, pa.binary())
    else:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pictures = pa.array([{"bytes": item, "path": None} for item in encoded], kind)
    table = pa.table({image: pictures, **columns})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=row_group_size)


FEATURES = {"img": {"_type": "Image"}, "label": {"names": ["ant", "bee", "cat"], "_type": "ClassLabel"}}


def first_pixels(images: np.ndarray) -> list[int]:
    return images[:, 0, 0, 0].tolist()


def test_the_hub_layout(tmp_path: Path):
    labels = [0, 1, 2, 0, 1, 2, 0]
    write(tmp_path / "train-00000-of-00002.parquet", list(range(7)), {"label": labels}, features=FEATURES)
    write(tmp_path / "train-00001-of-00002.parquet", [7, 8], {"label": [1, 1]}, features=FEATURES)
    write(tmp_path / "test-00000-of-00001.parquet", [50, 51], {"label": [2, 0]}, features=FEATURES)
    data = load("parquet", tmp_path)
    assert data.classes == ("ant", "bee", "cat")
    assert first_pixels(data.train.images) == list(range(9))
    assert data.train.labels.tolist() == [*labels, 1, 1]
    assert first_pixels(data.test.images) == [50, 51]
    assert data.test.labels.tolist() == [2, 0]
    assert data.input_shape == (3, 4, 4)
    assert data.owners is None


def test_a_limit_keeps_image_label_and_owner_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = list(range(60))
    columns = {"label": [v % 3 for v in values], "client_id": [f"w{v % 7}" for v in values]}
    write(tmp_path / "data" / "train.parquet", values, columns)
    opened: list[object] = []
    real = Image.open

    def counting(file: Any) -> Image.Image:
        opened.append(file)
        return real(file)

    monkeypatch.setattr(Image, "open", counting)
    data = load("parquet", tmp_path, limit=20, seed=3)
    assert len(opened) == 24
    kept = np.array(first_pixels(data.train.images))
    assert len(set(kept.tolist())) == 20
    np.testing.assert_array_equal(data.train.labels, kept % 3)
    np.testing.assert_array_equal(data.owners, kept % 7)
    np.testing.assert_array_equal(data.test.labels, np.array(first_pixels(data.test.images)) % 3)
    assert not set(kept.tolist()) & set(first_pixels(data.test.images))
    whole = load("parquet", tmp_path, seed=3)
    assert (len(whole.train), len(whole.test)) == (48, 12)
    np.testing.assert_array_equal(
        load("parquet", tmp_path, limit=8, seed=3).train.labels, data.train.labels[:8]
    )


def test_class_names_and_truth_values_as_labels(tmp_path: Path):
    write(tmp_path / "a" / "train.parquet", [1, 2, 3], {"label": ["dog", "cat", "dog"]})
    write(tmp_path / "a" / "test.parquet", [4], {"label": ["dog"]})
    data = load("parquet", tmp_path / "a")
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]
    write(tmp_path / "a" / "test.parquet", [4], {"label": ["cow"]})
    with pytest.raises(DataError, match="cow"):
        load("parquet", tmp_path / "a")
    write(tmp_path / "b" / "train.parquet", [1, 2, 3], {"Smiling": [True, False, True]})
    write(tmp_path / "b" / "test.parquet", [1], {"Smiling": [True]})
    data = load("parquet", tmp_path / "b", label_column="Smiling")
    assert data.classes == ("False", "True")
    assert data.train.labels.tolist() == [1, 0, 1]


def test_ambiguous_or_missing_columns_ask_for_the_option(tmp_path: Path):
    both = {"fine_label": [0, 1, 0], "label": [0, 0, 1]}
    write(tmp_path / "train.parquet", [1, 2, 3], both)
    with pytest.raises(DataError, match="could be fine_label, label; give the option label_column"):
        load("parquet", tmp_path)
    assert load("parquet", tmp_path, label_column="label", test_share=0.3).num_classes == 2
    with pytest.raises(ConfigError) as caught:
        load("parquet", tmp_path, label_column="labl")
    assert (caught.value.key, caught.value.nearest) == ("label_column", "label")
    with pytest.raises(ConfigError, match="client_column"):
        load("parquet", tmp_path, label_column="label", client_column="author")
    with pytest.raises(DataError, match="not encoded image files"):
        load("parquet", tmp_path, label_column="label", image_column="fine_label")
    write(tmp_path / "none" / "train.parquet", [1], {"kind": [0]})
    with pytest.raises(DataError, match="label column is none of the columns"):
        load("parquet", tmp_path / "none")


def test_missing_files(tmp_path: Path):
    assert find_files(tmp_path, "train") == []
    with pytest.raises(DataError, match="no train-"):
        load("parquet", tmp_path)
    write(tmp_path / "train-00001-of-00003.parquet", [1], {"label": [0]})
    with pytest.raises(DataError, match="1 of the 3"):
        load("parquet", tmp_path)
    (tmp_path / "train-00001-of-00003.parquet").rename(tmp_path / "train.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load("parquet", tmp_path)


def test_damaged_content(tmp_path: Path):
    write(tmp_path / "train.parquet", [1, 2], {"label": [0, 5]}, features=FEATURES)
    write(tmp_path / "test.parquet", [1], {"label": [0]}, features=FEATURES)
    with pytest.raises(DataError, match="holds the label 5, but there are names for 3 classes"):
        load("parquet", tmp_path)
    write(tmp_path / "train.parquet", [1, 2], {"label": [0, None]}, features=FEATURES)
    with pytest.raises(DataError, match="1 empty values"):
        load("parquet", tmp_path)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": None, "path": "a.png"}], kind)
    pq.write_table(pa.table({"img": pictures, "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no bytes"):
        load("parquet", tmp_path)
    pq.write_table(pa.table({"img": pa.array([b"junk"]), "label": [0]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train.parquet, row 0 of the split: cannot be decoded"):
        load("parquet", tmp_path)


def test_files_of_one_split_must_agree(tmp_path: Path):
    write(tmp_path / "train-00000-of-00002.parquet", [1], {"label": [0]})
    write(tmp_path / "train-00001-of-00002.parquet", [1], {"kind": [0]})
    with pytest.raises(DataError, match="other columns"):
        load("parquet", tmp_path)


def test_resizing_greying_and_measuring(tmp_path: Path):
    write(tmp_path / "train.parquet", [0, 255], {"label": [0, 1]})
    write(tmp_path / "test.parquet", [7], {"label": [0]})
    data = load("parquet", tmp_path, size=2, channels=1, normalisation="measured")
    assert data.input_shape == (1, 2, 2)
    assert data.mean == (0.5,)
    assert data.std == (0.5,)


def test_femnist_by_writer(tmp_path: Path):
    values = list(range(124))
    columns = {
        "writer_id": [f"f{9 - v % 4:04d}" for v in values],
        "hsf_id": [0] * 124,
        "character": [v % 62 for v in values],
    }
    features = {
        "image": {"_type": "Image"},
        "character": {"names": [str(k) for k in range(62)], "_type": "ClassLabel"},
    }
    file = tmp_path / "femnist" / "data" / "train-00000-of-00001.parquet"
    write(file, values, columns, image="image", features=features, shape=(28, 28))
    data = load("femnist", tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert (len(data.train), len(data.test), data.num_classes) == (99, 25, 62)
    np.testing.assert_array_equal(data.owners, 3 - np.array(first_pixels(data.train.images)) % 4)
    columns["character"] = [0] * 124
    write(file, values, columns, image="image", shape=(28, 28))
    with pytest.raises(DataError, match="1 classes, not 62"):
        load("femnist", tmp_path)


def cifar_features(names: list[str]) -> dict:
    return {"img": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}


@pytest.mark.parametrize("place", ["cifar10", "."])
def test_cifar10_in_parquet(tmp_path: Path, place: str):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    folder, shape = tmp_path / place, (32, 32, 3)
    for split in ("train", "test"):
        write(
            folder / f"{split}.parquet",
            [5, 6],
            {"label": [9, 0]},
            features=cifar_features(names),
            shape=shape,
        )
    data = load("cifar10", tmp_path)
    assert data.classes[9] == "truck"
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.train.labels.tolist() == [9, 0]
    write(folder / "train.parquet", [5], {"label": [0]}, features=cifar_features(names[::-1]), shape=shape)
    with pytest.raises(DataError, match="classes"):
        load("cifar10", tmp_path)
    write(folder / "train.parquet", [5], {"label": [0]}, features=cifar_features(names), shape=(16, 16, 3))
    with pytest.raises(DataError, match="test images"):
        load("cifar10", tmp_path)


def test_cifar100_in_parquet_uses_the_fine_labels(tmp_path: Path):
    columns = {"fine_label": [99, 0], "coarse_label": [19, 0]}
    names = {"names": [f"c{k:02d}" for k in range(100)], "_type": "ClassLabel"}
    features = {"img": {"_type": "Image"}, "fine_label": names, "coarse_label": names}
    for split in ("train", "test"):
        write(
            tmp_path / "cifar100" / f"{split}.parquet", [1, 2], columns, features=features, shape=(32, 32, 3)
        )
    data = load("cifar100", tmp_path)
    assert data.num_classes == 100
    assert data.train.labels.tolist() == [99, 0]


@pytest.mark.data
def test_the_real_cifar10_files(data_root: Path):
    if not (data_root / "cifar10").is_dir():
        pytest.skip("no cifar10 folder among the real data")
    data = load("cifar10", data_root, limit=300)
    assert (len(data.train), len(data.test)) == (300, 60)
    assert data.input_shape == (3, 32, 32)
    assert set(data.train.labels.tolist()) == set(range(10))
    mean = data.train.images.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(mean, data.mean, atol=0.03)
    direct = load("cifar10", data_root / "cifar10", limit=300)
    np.testing.assert_array_equal(direct.train.images, data.train.images)
    generic = load("parquet", data_root / "cifar10", limit=30)
    np.testing.assert_array_equal(generic.train.images, data.train.images[:30])
    assert generic.classes == data.classes


def test_whatever_is_wrong_inside_a_file_it_is_named(tmp_path: Path):
    """Bytes changed at random: decoded, where nothing can notice, or refused by the file's name."""
    file = tmp_path / "train.parquet"
    columns = {"label": [v % 3 for v in range(12)], "writer": [f"w{v % 2}" for v in range(12)]}
    write(file, list(range(12)), columns, row_group_size=4)
    whole, generator, problems = file.read_bytes(), np.random.default_rng(0), []
    for number in range(120):
        content = bytearray(whole)
        for place in generator.integers(4, len(content) - 8, 1 + number % 4):
            content[place] = generator.integers(256)
        file.write_bytes(content[: generator.integers(len(content))] if number % 10 == 0 else content)
        try:
            load("parquet", tmp_path, client_column="writer")
        except DataError as error:
            problems.append(str(error))
    assert len(problems) > 40
    assert all("train" in problem for problem in problems)


def test_pages_with_checksums_are_checked(tmp_path: Path):
    file = tmp_path / "train.parquet"
    table = pa.table({"img": [encode(1), encode(2)], "label": [0, 1]})
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, file, write_page_checksum=True, **plain)
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"train\.parquet: .*(checksum|crc|CRC).*; fetch or write the file again"
    ):
        load("parquet", tmp_path)
