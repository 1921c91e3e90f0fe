"""CelebA faces, in the layout torchvision's CelebA unpacks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import doc

from raysim.data.dataset import FederatedData, Normalisation, statistics
from raysim.data.folder import ImageList, decode_kept
from raysim.data.images import ImageFormat, Side
from raysim.data.selection import Selection
from raysim.data.torchvision_sets import from_torchvision
from raysim.errors import DataError, unknown_name

FILES = (
    "celeba/list_attr_celeba.txt, celeba/identity_CelebA.txt, celeba/list_eval_partition.txt"
    " and celeba/img_align_celeba/*.jpg"
)


def load(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    attribute: Annotated[str, doc("Attribute whose presence is the class, one of CelebA's 40.")] = "Smiling",
    size: Side = 128,
    normalisation: Normalisation = "none",
) -> FederatedData:
    """Celebrity faces, centre-cropped and resized to 3 x 128 x 128; one of 40 attributes; owners are identities.

    LayerCAM-AE does not say what is classified: the class is whether `attribute` is present (LEAF's task is
    Smiling). The published training and test partitions are used, the validation partition is not. All of the
    162,770 training images take 8 GB as uint8: give a limit or a smaller size.
    """
    base = root / "celeba"
    needed = ("list_attr_celeba.txt", "identity_CelebA.txt", "list_eval_partition.txt", "img_align_celeba")
    if not all((base / name).exists() for name in needed):
        if not download:
            advice = "put them there, or have them fetched: data.download=true"
            raise DataError(f"celeba: needs {FILES} under {root}: {advice}")
        from_torchvision(
            "celeba", root, FILES, download, lambda sets, fetch: sets.CelebA(root, download=fetch)
        )
    if not all((base / name).exists() for name in needed):
        raise DataError(f"celeba: needs {FILES} under {root}: torchvision fetched others")

    with (base / needed[0]).open(errors="replace") as file:
        attributes = [next(file, ""), next(file, "").split()][1]
    if attribute not in attributes:
        raise unknown_name("attribute", attribute, attributes)
    names, present = _columns(base / needed[0], 1 + attributes.index(attribute), skip=2)
    named, identities = _columns(base / needed[1], 1)
    listed, partitions = _columns(base / needed[2], 1)
    if not (np.array_equal(names, named) and np.array_equal(names, listed)):
        raise DataError(f"celeba: the three tables under {base} list different images")
    if not np.isin(present, (-1, 1)).all():
        raise DataError(f"celeba: {base / needed[0]} holds values other than 1 and -1")

    labels = (present == 1).astype(np.int64)
    train_rows, test_rows = np.flatnonzero(partitions == 0), np.flatnonzero(partitions == 2)
    images = ImageList([base / needed[3] / name for name in names], labels)
    selection = Selection(limit, seed)
    form = ImageFormat.of(size, 3, square=True)
    train, test = decode_kept(images.select(train_rows), images.select(test_rows), form, selection)
    return FederatedData(
        "celeba",
        train,
        test,
        (f"not {attribute}", attribute),
        *statistics(normalisation, train.images),
        owners=identities[train_rows][selection.train(len(train_rows))],
    )


def _columns(table: Path, column: int, skip: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The file names and one column of whole numbers of a table separated by blanks."""
    try:
        cells = np.loadtxt(table, dtype=str, usecols=(0, column), skiprows=skip, ndmin=2)
        return cells[:, 0], cells[:, 1].astype(np.int64)
    except (ValueError, IndexError) as error:
        raise DataError(f"{table}: {error}") from error
