"""The German traffic sign recognition benchmark, in the layout torchvision's GTSRB unpacks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from raysim.data.dataset import FederatedData, channel_statistics
from raysim.data.folder import ImageList, class_folders, decode_kept, list_images
from raysim.data.images import ImageFormat, Side
from raysim.data.selection import Selection
from raysim.data.torchvision_sets import Build, from_torchvision
from raysim.errors import DataError

NUM_CLASSES = 43
FILES = (
    "gtsrb/GTSRB/Training/00000..00042/*.ppm, gtsrb/GTSRB/Final_Test/Images/*.ppm and gtsrb/GT-final_test.csv"
)


def load(
    root: Path, *, download: bool, seed: int, limit: int | None = None, size: Side = 128
) -> FederatedData:
    """Traffic signs, 26,640 + 12,630 images resized to 3 x 128 x 128, 43 classes; measured mean and std.

    Resized without regard to the aspect ratio. Mean and std are those of the training images as loaded.
    """
    base = root / "gtsrb"
    training, tests, table = (
        base / "GTSRB/Training",
        base / "GTSRB/Final_Test/Images",
        base / "GT-final_test.csv",
    )
    if not (training.is_dir() and tests.is_dir() and table.is_file()):
        if not download:
            advice = "put them there, or have them fetched: data.download=true"
            raise DataError(f"gtsrb: needs {FILES} under {root}: {advice}")
        from_torchvision("gtsrb", root, FILES, download, _both_splits(root))
    if not (training.is_dir() and tests.is_dir() and table.is_file()):
        raise DataError(f"gtsrb: needs {FILES} under {root}: torchvision fetched others")
    expected = tuple(f"{label:05d}" for label in range(NUM_CLASSES))
    if class_folders(training) != expected:
        raise DataError(f"gtsrb: {training} must hold the {NUM_CLASSES} class folders 00000..00042")
    selection = Selection(limit, seed)
    train, test = decode_kept(
        list_images(training, expected),
        _test_list(tests, table),
        ImageFormat.of(size, 3),
        selection,
    )
    mean, std = channel_statistics(train.images)
    classes = tuple(str(label) for label in range(NUM_CLASSES))
    return FederatedData("gtsrb", train, test, classes, mean, std)


def _both_splits(root: Path) -> Build:
    return lambda datasets, download: [
        datasets.GTSRB(root, split, download=download) for split in ("train", "test")
    ]


def _test_list(folder: Path, table: Path) -> ImageList:
    try:
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";"))
        labels = np.array([int(row["ClassId"]) for row in rows], np.int64)
        return ImageList([folder / row["Filename"] for row in rows], labels)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{table}: needs the columns Filename and ClassId, separated by semicolons"
        ) from error
