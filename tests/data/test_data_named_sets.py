from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysim.data import load
from raysim.errors import DataError

WNIDS = [f"n{k:08d}" for k in range(200)]


def save(file: Path, value: int, side: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file, quality=95)


def write_tiny_training(folder: Path) -> None:
    for label, name in enumerate(WNIDS):
        save(folder / "train" / name / "images" / f"{name}_0.JPEG", label, 64)
        (folder / "train" / name / f"{name}_boxes.txt").write_text("")
    save(folder / "test" / "images" / "test_0.JPEG", 0, 64)


def test_tiny_imagenet_in_its_original_layout(tmp_path: Path):
    folder = tmp_path / "tiny-imagenet-200"
    write_tiny_training(folder)
    Image.new("L", (64, 64), 77).save(folder / "train" / WNIDS[7] / "images" / f"{WNIDS[7]}_0.JPEG")
    lines = []
    for number, label in enumerate((150, 3)):
        save(folder / "val" / "images" / f"val_{number}.JPEG", label, 64)
        lines.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    data = load("tiny_imagenet", tmp_path)
    assert data.input_shape == (3, 64, 64)
    assert data.classes == tuple(WNIDS)
    assert data.train.labels.tolist() == list(range(200))
    assert data.train.images[7, :, 0, 0].tolist() == [77] * 3
    assert data.test.labels.tolist() == [150, 3]
    np.testing.assert_allclose(data.test.images[:, :, 9, 9].mean(axis=1), [150, 3], atol=1)
    assert data.mean == (0.485, 0.456, 0.406)
    assert len(load("tiny_imagenet", folder, limit=5).train) == 5
    (folder / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn99999999\t0\n")
    with pytest.raises(DataError, match="n99999999"):
        load("tiny_imagenet", tmp_path)


def test_tiny_imagenet_by_class_prefers_validation(tmp_path: Path):
    folder = tmp_path / "tiny_imagenet"
    write_tiny_training(folder)
    for label, name in enumerate(WNIDS):
        save(folder / "val" / name / "val_0.JPEG", label, 64)
    data = load("tiny_imagenet", tmp_path, limit=20, normalisation="none")
    np.testing.assert_allclose(data.test.images[:, 0, 0, 0], data.test.labels, atol=1)


def test_kather_is_split_and_resized(tmp_path: Path):
    names = [
        "01_TUMOR",
        "02_STROMA",
        "03_COMPLEX",
        "04_LYMPHO",
        "05_DEBRIS",
        "06_MUCOSA",
        "07_ADIPOSE",
        "08_EMPTY",
    ]
    for label, name in enumerate(names):
        for number in range(5):
            save(tmp_path / "kather" / name / f"{number}.tif", 20 * label + number, 150)
    data = load("kather", tmp_path)
    assert data.input_shape == (3, 128, 128)
    assert data.classes == tuple(names)
    assert (len(data.train), len(data.test)) == (32, 8)
    np.testing.assert_array_equal(data.train.images[:, 0, 64, 64] // 20, data.train.labels)
    assert load("kather", tmp_path, size=32, test_share=0.5, limit=10).input_shape == (3, 32, 32)
    (tmp_path / "kather" / "08_EMPTY").rename(tmp_path / "away")
    with pytest.raises(DataError, match="7 classes, not 8"):
        load("kather", tmp_path)


def test_a_root_of_other_data_sets_is_not_taken_for_class_folders(tmp_path: Path):
    save(tmp_path / "MNIST" / "raw" / "a.png", 1, 28)
    save(tmp_path / "other" / "b.png", 1, 28)
    with pytest.raises(DataError, match="put train-"):
        load("kather", tmp_path)


def test_femnist_as_an_image_folder(tmp_path: Path):
    for label in range(62):
        for part in ("train", "test"):
            save(tmp_path / "femnist" / part / f"{label:02d}" / "0.png", label, 28)
    data = load("femnist", tmp_path)
    assert data.input_shape == (1, 28, 28)
    assert data.owners is None
    np.testing.assert_array_equal(data.test.images[:, 0, 0, 0], np.arange(62))
