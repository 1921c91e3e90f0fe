"""Data sets read image by image: the hub's Parquet layout and image folders, generic and by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import doc

from raysim.data import folder as image_folders
from raysim.data import parquet as parquet_files
from raysim.data.dataset import FederatedData, Normalisation, expect, statistics
from raysim.data.images import Channels, ImageFormat, Side, Size
from raysim.data.selection import Selection, TestShare
from raysim.errors import DataError


def parquet(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    image_column: Annotated[str | None, doc("Column of the images; null: found from the schema.")] = None,
    label_column: Annotated[str | None, doc("Column of the labels; null: found from the schema.")] = None,
    client_column: Annotated[
        str | None,
        doc("Column of the owners, for the natural partition; null: found from the schema, if any."),
    ] = None,
    size: Size = None,
    channels: Channels = None,
    normalisation: Normalisation = "none",
    test_share: TestShare = None,
) -> FederatedData:
    """Any image data set in the Hugging Face hub's Parquet layout; `root` is the folder of the files.

    Columns are found from the schema unless named; `client_column` gives the natural partition. `size` (one
    number or height and width) resizes, `channels` (1 or 3) converts. Without test or validation files a seeded
    `test_share` (0.2) of the training rows is the test set. Never downloads.
    """
    form = ImageFormat.of(size, channels)
    columns = parquet_files.Columns(image_column, label_column, client_column)
    return _from_parquet("parquet", root, form, columns, Selection(limit, seed, test_share), normalisation)


def image_folder(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    size: Size = None,
    channels: Channels = None,
    normalisation: Normalisation = "none",
    test_share: TestShare = None,
) -> FederatedData:
    """Any folder of images with one sub-folder per class, or train/ and test/ (val/) of such folders.

    Options as for `parquet`. Never downloads.
    """
    if not root.is_dir():
        raise DataError(f"image_folder: there is no folder {root}")
    form, selection = ImageFormat.of(size, channels), Selection(limit, seed, test_share)
    return _from_folder("image_folder", root, form, selection, normalisation)


def femnist(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    normalisation: Normalisation = "none",
    test_share: TestShare = None,
) -> FederatedData:
    """LEAF's handwritten characters by writer, 1 x 28 x 28, 62 classes; owners are the writers.

    In `femnist` under the root (or the root itself): the hub's Parquet files with columns image, character and
    writer_id, which have no test split, or an image folder, which knows no writers. Never downloads.
    """
    form = ImageFormat((28, 28), 1)
    selection = Selection(limit, seed, test_share)
    data = _named("femnist", root, ["femnist"], form, selection, normalisation)
    return expect(data, (1, 28, 28), 62)


def tiny_imagenet(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    normalisation: Normalisation = "imagenet",
) -> FederatedData:
    """Tiny-ImageNet-200, 100,000 + 10,000 images, 3 x 64 x 64, 200 classes; the validation set is the test set.

    In `tiny-imagenet-200` or `tiny_imagenet` under the root (or the root itself): the original layout with
    val/val_annotations.txt, train/ and val/ by class, or the hub's Parquet files. Never downloads.
    """
    places = ["tiny-imagenet-200", "tiny_imagenet"]
    form, selection = ImageFormat((64, 64), 3), Selection(limit, seed)
    for place in (*(root / name for name in places), root):
        if (place / "val" / "val_annotations.txt").is_file():
            data = _original_tiny_imagenet(place, form, selection, normalisation)
            break
    else:
        data = _named("tiny_imagenet", root, places, form, selection, normalisation)
    return expect(data, (3, 64, 64), 200)


def kather(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    size: Side = 128,
    normalisation: Normalisation = "none",
    test_share: TestShare = None,
) -> FederatedData:
    """Kather's 5,000 colorectal histology textures (2016), 150 pixels resized to 3 x 128 x 128, 8 classes.

    Published without a split: a seeded `test_share` (0.2) is the test set. In `kather` or
    `Kather_texture_2016_image_tiles_5000` under the root (or the root itself): class folders of TIFF files, or
    the hub's Parquet files. Never downloads.
    """
    places, form = ["kather", "Kather_texture_2016_image_tiles_5000"], ImageFormat.of(size, 3)
    selection = Selection(limit, seed, test_share)
    data = _named("kather", root, places, form, selection, normalisation)
    return expect(data, num_classes=8)


def _named(
    name: str,
    root: Path,
    places: Sequence[str],
    form: ImageFormat,
    selection: Selection,
    normalisation: Normalisation,
) -> FederatedData:
    """The first of `root/<place>` that holds Parquet files or class folders, else the root itself."""
    for place in (*(root / place for place in places), root):
        if parquet_files.find_files(place, "train"):
            return _from_parquet(name, place, form, parquet_files.Columns(), selection, normalisation)
        # the root itself usually holds several data sets, so there only a folder named train is a sign
        if (place / "train").is_dir() or (place != root and place.is_dir()):
            return _from_folder(name, place, form, selection, normalisation)
    raise DataError(
        f"{name}: put train-*.parquet (and test-*.parquet if there are any) or one folder of images per class"
        f" into {root / places[0]}; raysim cannot download this data set"
    )


def _from_parquet(
    name: str,
    place: Path,
    form: ImageFormat,
    columns: parquet_files.Columns,
    selection: Selection,
    normalisation: Normalisation,
) -> FederatedData:
    found = parquet_files.load_split(place, form, columns, selection)
    mean, std = statistics(normalisation, found.train.images)
    return FederatedData(
        name, found.train, found.test, found.classes, mean, std, found.owners, notes=found.notes
    )


def _from_folder(
    name: str, place: Path, form: ImageFormat, selection: Selection, normalisation: Normalisation
) -> FederatedData:
    # validation before test: Tiny-ImageNet's test images have no labels
    names = ("val", "valid", "validation", "test") if name == "tiny_imagenet" else image_folders.TEST_FOLDERS
    train, test, classes = image_folders.load_split(place, form, selection, names)
    return FederatedData(name, train, test, classes, *statistics(normalisation, train.images))


def _original_tiny_imagenet(
    place: Path, form: ImageFormat, selection: Selection, normalisation: Normalisation
) -> FederatedData:
    classes = image_folders.class_folders(place / "train")
    table = place / "val" / "val_annotations.txt"
    rows = [line.split("\t") for line in table.read_text(errors="replace").splitlines()]
    labels = {name: label for label, name in enumerate(classes)}
    if wrong := [row for row in rows if len(row) < 2 or row[1] not in labels]:
        raise DataError(f"{table}: lines must start with file name, tab, class of train; not {wrong[0]}")
    validation = image_folders.ImageList(
        [place / "val" / "images" / row[0] for row in rows],
        np.array([labels[row[1]] for row in rows], np.int64),
    )
    listed = image_folders.list_images(place / "train", classes)
    train, test = image_folders.decode_kept(listed, validation, form, selection)
    return FederatedData("tiny_imagenet", train, test, classes, *statistics(normalisation, train.images))
