"""Data handed over as Python objects: arrays, torch data sets, tables of Hugging Face's `datasets`.

Nothing here imports torch or `datasets`: what an object offers decides how it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


import hashlib
from collections.abc import Mapping

import numpy as np

from raysim.data.dataset import Dataset, FederatedData
from raysim.data.selection import Selection
from raysim.errors import DataError

INPUTS = ("image", "img", "input_ids", "tokens", "features", "x", "text")
LABELS = ("label", "labels", "fine_label", "target", "y")
"""Columns of a table that hold inputs and labels; the first that it has."""

FORMS = "must be two parts (train, test), each a pair of arrays (inputs, labels), a torch Dataset, or a datasets.Dataset"


def federated(given: object, *, limit: int | None = None, seed: int = 0) -> FederatedData:
    """The classification task in `given`: (train, test), a mapping with these two keys, or FederatedData.

    Each part: arrays (inputs [n, ...], labels [n]), also tensors; a map-style torch Dataset whose items are (input,
    label); or a `datasets.Dataset` with one of the columns INPUTS and one of LABELS. Inputs: images [n, C, H, W],
    of which uint8 is divided by 255 (grey ones may be [n, H, W] uint8; PIL images in items and columns are turned
    into that form); features of any float type; tokens of any other integer type. Labels: integers from 0.
    limit: keep that many training samples, drawn by `seed`, and a fifth of it as test samples. Raises DataError.
    """
    if isinstance(given, FederatedData):
        found = given
    else:
        if isinstance(given, Mapping) and {"train", "test"} <= set(given):
            given = given["train"], given["test"]
        if not (isinstance(given, tuple | list) and len(given) == 2):
            raise DataError(f"data {FORMS}; received {type(given).__name__}")
        (train, names), (test, _) = (
            _part(part, which) for part, which in zip(given, ("train", "test"), strict=True)
        )
        count = 1 + max(int(part.labels.max(initial=0)) for part in (train, test))
        classes = names if len(names) >= count else tuple(map(str, range(count)))
        found = FederatedData("object", train, test, classes)
    if limit is None:
        return found
    kept = Selection(limit, seed)
    indices = kept.train(len(found.train))
    return FederatedData(
        found.name,
        found.train.select(indices),
        found.test.select(kept.test(len(found.test))),
        found.classes,
        found.mean,
        found.std,
        None if found.owners is None else found.owners[indices],
        found.attack_std,
    )


def digest(data: FederatedData) -> str:
    """SHA-256 of all samples, labels and the normalisation, the first 16 digits."""
    if data.digest is not None:
        return data.digest
    found = hashlib.sha256(repr((data.classes, data.mean, data.std, data.attack_std)).encode())
    owners = () if data.owners is None else (data.owners[:],)
    for array in (data.train.images, data.train.labels, data.test.images, data.test.labels, *owners):
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]


def _part(part: object, which: str) -> tuple[Dataset, tuple[str, ...]]:
    """One part's samples, and the names of its classes if it knows them."""
    if columns := getattr(part, "column_names", None):
        return _table(part, columns, which)
    if isinstance(part, tuple | list) and len(part) == 2 and not hasattr(part, "tensors"):
        inputs, labels = part
    elif hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        items = [part[place] for place in range(len(part))]
        if not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            raise DataError(f"data: the {which} set's items must be pairs (input, label)")
        inputs, labels = ([item[side] for item in items] for side in (0, 1))
    else:
        raise DataError(f"data {FORMS}; the {which} part is {type(part).__name__}")
    return Dataset(_inputs(inputs, which), _labels(labels, which)), ()


def _table(part: Any, columns: list[str], which: str) -> tuple[Dataset, tuple[str, ...]]:
    """The samples of a `datasets.Dataset`, whose types are not at hand if it is not installed."""
    chosen = []
    for kind, wanted in (("inputs", INPUTS), ("labels", LABELS)):
        found = next((name for name in wanted if name in columns), None)
        if found is None:
            raise DataError(
                f"data: the {which} set has no column of {kind} ({', '.join(wanted)}); it has {', '.join(columns)}"
            )
        chosen.append(found)
    features = getattr(part, "features", None) or {}
    names = getattr(features.get(chosen[1]), "names", None) or ()
    inputs, labels = (list(part[name]) for name in chosen)
    if (
        stored := _number_type(features.get(chosen[0]))
    ) is not None:  # rows come as lists of Python's numbers
        inputs = [np.asarray(value, stored) for value in inputs]
    return Dataset(_inputs(inputs, which), _labels(labels, which)), tuple(names)


def _number_type(feature: Any) -> np.dtype[Any] | None:
    """The type of numbers that a column of `datasets` was declared with, however deep in lists; None for others."""
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    try:
        stored = np.dtype(getattr(feature, "dtype", ""))
    except TypeError:  # pictures, texts
        return None
    return stored if stored.kind in "iuf" else None


def _inputs(values: object, which: str) -> np.ndarray:
    """Inputs [n, ...] in one of the types that `Dataset` holds."""
    if isinstance(values, list) and values and hasattr(values[0], "getbands"):
        values = [_pixels(picture) for picture in values]
    try:
        array = _array(values)
    except ValueError as error:
        raise DataError(f"data: the {which} inputs must all have one shape ({error})") from None
    if array.dtype.kind in "US" or array.dtype == object:
        rule = "must be numbers: turn texts into tokens first, as a column input_ids [n, t]"
        raise DataError(f"data: the {which} inputs {rule}")
    if array.dtype == np.uint8:
        array = array[:, None] if array.ndim == 3 else array
    elif array.dtype.kind in "iu":
        array = array.astype(np.int64)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise DataError(f"data: the {which} inputs must be finite")
    if array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        raise DataError(f"data: the {which} images must be [n, C, H, W]; {array.shape} has its channels last")
    return np.ascontiguousarray(array)


def _labels(values: object, which: str) -> np.ndarray:
    array = _array(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"data: the {which} labels must be integers [n], not {array.dtype} {array.shape}")
    if array.size and array.min() < 0:
        raise DataError(f"data: the {which} labels must be at least 0, not {array.min()}")
    return array.astype(np.int64)


def _array(values: object) -> np.ndarray:
    """An array of an array, a tensor, or a list of either."""
    if isinstance(values, list):
        return np.stack([np.asarray(value) for value in values]) if values else np.zeros(0, np.int64)
    return np.asarray(values)


def _pixels(picture: Picture) -> np.ndarray:
    """[C, H, W] uint8 of a PIL image: one channel for grey, three for anything else."""
    if picture.mode in ("1", "L", "LA"):
        return np.asarray(picture.convert("L"))[None]
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
