"""Image folders: one folder per class, with or without a train/test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysim.data.dataset import Dataset
from raysim.data.images import SUFFIXES, ImageFormat, stack
from raysim.data.selection import Selection
from raysim.errors import DataError

TEST_FOLDERS = ("test", "val", "valid", "validation")


@dataclass(frozen=True)
class ImageList:
    """Image files and their labels [n] int64, not yet decoded."""

    paths: Sequence[Path]
    labels: np.ndarray

    def select(self, indices: np.ndarray) -> ImageList:
        """The files at `indices`, in that order."""
        return ImageList([self.paths[index] for index in indices], self.labels[indices])

    def decode(self, form: ImageFormat) -> Dataset:
        """Read all files."""
        items = ((position, path, str(path)) for position, path in enumerate(self.paths))
        return Dataset(stack(items, len(self.paths), form), self.labels)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the sub-folders of `folder`, sorted: the classes in label order."""
    return tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))


def list_images(folder: Path, classes: Sequence[str]) -> ImageList:
    """All image files below `folder/<class>`, sorted by path inside each class.

    Hidden files and folders, whose names begin with a dot, are left out: copies that editors and file managers make.
    Raises DataError if a class of `classes` has no image, or `folder` holds a class that is not in it.
    """
    if unknown := set(class_folders(folder)) - set(classes):
        raise DataError(
            f"{folder} has folders that are not classes of the training set: {sorted(unknown)[:5]}"
        )
    paths: list[Path] = []
    counts = []
    for name in classes:
        found = sorted(
            path
            for path in (folder / name).rglob("*")
            if path.suffix.lower() in SUFFIXES
            and not any(part[0] == "." for part in path.relative_to(folder / name).parts)
        )
        if not found:
            raise DataError(f"{folder / name} holds no image ({', '.join(sorted(SUFFIXES))})")
        paths += found
        counts.append(len(found))
    return ImageList(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def load_split(
    folder: Path, form: ImageFormat, selection: Selection, test_folders: Sequence[str] = TEST_FOLDERS
) -> tuple[Dataset, Dataset, tuple[str, ...]]:
    """Training set, test set and class names of an image folder.

    Either `folder/train/<class>` and `folder/<test folder>/<class>`, the first of `test_folders` that exists,
    or `folder/<class>` alone, of which the selection's test share becomes the test set. Only kept images are
    decoded.
    """
    if (folder / "train").is_dir():
        tests = [folder / name for name in test_folders if (folder / name).is_dir()]
        if not tests:
            raise DataError(f"{folder} has a folder train but none of {', '.join(test_folders)}")
        selection.accept_test_set(tests[0])
        classes = class_folders(folder / "train")
        train, test = list_images(folder / "train", classes), list_images(tests[0], classes)
    else:
        classes = class_folders(folder)
        if not classes:
            raise DataError(f"{folder} holds no class folders")
        images = list_images(folder, classes)
        train, test = map(images.select, selection.hold_out(len(images.paths)))
    return (*decode_kept(train, test, form, selection), classes)


def decode_kept(
    train: ImageList, test: ImageList, form: ImageFormat, selection: Selection
) -> tuple[Dataset, Dataset]:
    """Decode what the selection keeps of both lists, the test images in colour if the training images are."""
    decoded = train.select(selection.train(len(train.paths))).decode(form)
    return decoded, test.select(selection.test(len(test.paths))).decode(form.like(decoded.images))
