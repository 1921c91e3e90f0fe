"""The data sets that torchvision reads whole: MNIST and its kin, CIFAR, SVHN.

`root` is what torchvision's classes call root. CIFAR may lie there in the hub's Parquet layout instead.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import doc

from raysim.data import parquet
from raysim.data.dataset import Dataset, FederatedData, Statistics, channel_statistics, expect
from raysim.data.images import ImageFormat
from raysim.data.selection import Selection
from raysim.errors import DataError

logger = logging.getLogger(__name__)

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CLOTHES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DIGITS = tuple("0123456789")
LEGACY_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
LEGACY_ATTACK_STD = (0.2023, 0.1994, 0.2010)


Build = Callable[[Any, bool], Any]
"""(torchvision.datasets, whether it may download) -> what is read. Any: torchvision says nothing of types."""

UNREADABLE = (
    RuntimeError,
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AssertionError,
    EOFError,
)
"""What torchvision raises for files that are missing or damaged, and for downloads that fail."""

STALLED_S = 20.0
"""A download ends when nothing has arrived for so long."""


def from_torchvision(name: str, root: Path, files: str, download: bool, build: Build) -> Any:
    """What `build` reads; if it cannot and `download` is set, it is called again and may fetch `files`.

    A fetch is announced in the log. Every way to fail becomes a DataError that names `files`.
    """
    from raysim.models.torchvision_compat import import_torchvision

    datasets = import_torchvision().datasets
    try:
        return build(datasets, False)
    except UNREADABLE as error:
        if not download:
            advice = "put them there, or have them fetched: data.download=true"
            raise DataError(f"{name}: cannot read {files} under {root}: {error}; {advice}") from error
    logger.warning(
        "%s: fetching %s into %s; ends when nothing arrives for %g s", name, files, root, STALLED_S
    )
    try:
        with _patience(STALLED_S):
            return build(datasets, True)
    except UNREADABLE as error:
        reason = f"nothing arrived for {STALLED_S:g} s" if _stalled(error) else str(error)
        raise DataError(f"{name}: fetching {files} into {root} failed: {reason}") from error


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Inside the block, sockets give up after `seconds` of silence; torchvision opens them without a limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _stalled(error: BaseException | None) -> bool:
    """Whether a time limit is what an error, or the one it was raised from, is about."""
    while error is not None:
        if isinstance(error, TimeoutError) or "timed out" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def mnist(root: Path, *, download: bool, seed: int, limit: int | None = None) -> FederatedData:
    """Handwritten digits, 60,000 + 10,000 images, 1 x 28 x 28, 10 classes; scaled to [0, 1] (as DBA does)."""
    return _mnist_like("mnist", "MNIST", DIGITS, root, download, Selection(limit, seed))


def fashion_mnist(root: Path, *, download: bool, seed: int, limit: int | None = None) -> FederatedData:
    """Articles of clothing, 60,000 + 10,000 images, 1 x 28 x 28, 10 classes; scaled to [0, 1]."""
    return _mnist_like("fashion_mnist", "FashionMNIST", CLOTHES, root, download, Selection(limit, seed))


def emnist(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    upright: Annotated[
        bool, doc("Whether to turn images as MNIST's stand; the files hold them transposed.")
    ] = False,
) -> FederatedData:
    """EMNIST's digits, 240,000 + 40,000 images, 1 x 28 x 28, 10 classes; mean .1307, std .3081.

    The files hold every image transposed, and published attack code trains on them as they are (default);
    `upright` turns them the way MNIST's and ARDIS's digits stand.
    """
    files = "EMNIST/raw/emnist-digits-{train,test}-{images-idx3,labels-idx1}-ubyte"
    build = _both("EMNIST", root, split="digits")
    train, test = (
        _grey_images(part, upright) for part in from_torchvision("emnist", root, files, download, build)
    )
    statistics = (0.1307,), (0.3081,)
    return _assemble("emnist", train, test, DIGITS, (1, 28, 28), Selection(limit, seed), statistics)


def cifar10(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    legacy_norm: Annotated[
        bool,
        doc(
            "Whether honest clients divide by other deviations than attackers and test (Wang et al.'s code)."
        ),
    ] = False,
) -> FederatedData:
    """Colour photographs, 50,000 + 10,000 images, 3 x 32 x 32, 10 classes; mean and std of the CAM code.

    Reads torchvision's folder `cifar-10-batches-py`, else `train-*.parquet` and `test-*.parquet` in `cifar10`
    or in the root itself.

    legacy_norm: what the code of Wang et al. (NeurIPS 2020) does, and FedGrad's after it: honest clients divide by
    (63.0, 62.1, 66.7) / 255, attackers and the test by (.2023, .1994, .2010).
    """
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    statistics = mean, LEGACY_STD if legacy_norm else std
    selection = Selection(limit, seed)
    data = _cifar("cifar10", "CIFAR10", "cifar-10-batches-py", None, statistics, root, download, selection)
    if data.classes != CIFAR10_CLASSES:
        raise DataError(f"cifar10: the classes under {root} are {data.classes}, not {CIFAR10_CLASSES}")
    return replace(data, attack_std=LEGACY_ATTACK_STD) if legacy_norm else data


def cifar100(root: Path, *, download: bool, seed: int, limit: int | None = None) -> FederatedData:
    """Colour photographs, 50,000 + 10,000 images, 3 x 32 x 32, 100 fine classes.

    Reads torchvision's folder `cifar-100-python`, else `train-*.parquet` and `test-*.parquet` (label column
    fine_label) in `cifar100` or in the root itself.
    """
    statistics = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
    selection = Selection(limit, seed)
    data = _cifar(
        "cifar100", "CIFAR100", "cifar-100-python", "fine_label", statistics, root, download, selection
    )
    return expect(data, (3, 32, 32), 100)


def svhn(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    extra: Annotated[
        bool, doc("Whether to add the 531,131 easier training images of extra_32x32.mat.")
    ] = False,
) -> FederatedData:
    """House numbers, 73,257 + 26,032 images, 3 x 32 x 32, 10 classes; measured mean and std.

    `extra` adds the 531,131 easier images of the file extra_32x32.mat (604,388 for training). Mean and std are
    those of the training images as loaded.
    """
    splits = ["train", "test", *(["extra"] if extra else [])]

    def build(datasets: Any, download: bool) -> list[Dataset]:
        parts = (datasets.SVHN(root, split=split, download=download) for split in splits)
        return [Dataset(np.ascontiguousarray(part.data), part.labels.astype(np.int64)) for part in parts]

    train, test, *more = from_torchvision("svhn", root, f"{{{','.join(splits)}}}_32x32.mat", download, build)
    for part in more:
        images = np.concatenate([train.images, part.images])
        train = Dataset(images, np.concatenate([train.labels, part.labels]))
    data = _assemble("svhn", train, test, DIGITS, (3, 32, 32), Selection(limit, seed))
    mean, std = channel_statistics(data.train.images)
    return replace(data, mean=mean, std=std)


def _both(kind: str, root: Path, **options: str) -> Build:
    """Opens torchvision's class `kind` for training and for test."""

    def build(datasets: Any, download: bool) -> list[object]:
        return [
            getattr(datasets, kind)(root, train=part, download=download, **options) for part in (True, False)
        ]

    return build


def _mnist_like(
    name: str, kind: str, classes: tuple[str, ...], root: Path, download: bool, selection: Selection
) -> FederatedData:
    files = f"{kind}/raw/{{train,t10k}}-{{images-idx3,labels-idx1}}-ubyte"
    parts = from_torchvision(name, root, files, download, _both(kind, root))
    train, test = (_grey_images(part, False) for part in parts)
    return _assemble(name, train, test, classes, (1, 28, 28), selection)


def _grey_images(part: Any, transpose: bool) -> Dataset:
    images = part.data.numpy()
    if transpose:
        images = images.transpose(0, 2, 1)
    return Dataset(np.ascontiguousarray(images[:, None]), part.targets.numpy())


def _cifar(
    name: str,
    kind: str,
    folder: str,
    label_column: str | None,
    statistics: Statistics,
    root: Path,
    download: bool,
    selection: Selection,
) -> FederatedData:
    if not (root / folder).is_dir():
        for place in (root / name, root):
            if parquet.find_files(place, "train"):
                columns = parquet.Columns(label=label_column)
                found = parquet.load_split(place, ImageFormat(channels=3), columns, selection)
                data = FederatedData(
                    name, found.train, found.test, found.classes, *statistics, notes=found.notes
                )
                return expect(data, (3, 32, 32))
    files = f"{folder}/ or {name}/{{train,test}}-*.parquet"
    parts = from_torchvision(name, root, files, download, _both(kind, root))
    train, test = (
        Dataset(part.data.transpose(0, 3, 1, 2), np.asarray(part.targets, np.int64)) for part in parts
    )
    return _assemble(name, train, test, tuple(parts[0].classes), (3, 32, 32), selection, statistics)


def _assemble(
    name: str,
    train: Dataset,
    test: Dataset,
    classes: tuple[str, ...],
    shape: tuple[int, int, int],
    selection: Selection,
    statistics: Statistics = ((0.0,), (1.0,)),
) -> FederatedData:
    """What the limit keeps of two whole sets."""
    if selection.limit is not None:
        train, test = train.select(selection.train(len(train))), test.select(selection.test(len(test)))
    return expect(FederatedData(name, train, test, classes, *statistics), shape)
