"""The edge-case backdoor sets of Wang et al., "Attack of the Tails" (NeurIPS 2020).

Naturally rare inputs that an attacker trains with a wrong label: Southwest Airlines aeroplanes as trucks beside
CIFAR-10, Swedish handwritten sevens (ARDIS) as ones beside EMNIST or MNIST. Training sets are the attacker's,
test sets measure its success. All labels are the target label already.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from raysim.data.dataset import Dataset
from raysim.errors import DataError

SOUTHWEST_TARGET = 9
"""truck, in CIFAR-10."""
ARDIS_TARGET = 1


def load_southwest(root: str | Path) -> tuple[Dataset, Dataset]:
    """Southwest Airlines aeroplanes, 784 + 196 images, 3 x 32 x 32 uint8, labelled 9 (truck in CIFAR-10).

    In `edge_case` under the root (or the root itself): `southwest_airlines.npz` with arrays train and test
    [n, 32, 32, 3], or the authors' `southwest_images_new_train.pkl` and `southwest_images_new_test.pkl`, of
    which only the array's bytes are taken: no code in a pickle is run. Returns (train, test).
    """
    pickles = ("southwest_images_new_train.pkl", "southwest_images_new_test.pkl")
    for place in _places(root):
        if (file := place / "southwest_airlines.npz").is_file():
            train, test = _read_npz(file)
        elif all((place / name).is_file() for name in pickles):
            train, test = (read_array_pickle(place / name) for name in pickles)
        else:
            continue
        shape, target = (32, 32, 3), SOUTHWEST_TARGET
        return _labelled(train, shape, target, place), _labelled(test, shape, target, place)
    raise DataError(
        f"southwest: put southwest_airlines.npz, or {' and '.join(pickles)}, into {_places(root)[0]}"
    )


def load_ardis_sevens(root: str | Path) -> tuple[Dataset, Dataset]:
    """The sevens of ARDIS IV, 660 + 100 images, 1 x 28 x 28 uint8, labelled 1; white on black as in MNIST.

    In `edge_case` under the root (or the root itself): `ardis_sevens.npz` with arrays train and test
    [n, 28, 28], or the published texts ARDIS_{train,test}_2828.csv (784 grey values 0..255 a line, separated by
    blanks) and ARDIS_{train,test}_labels.csv (one-hot or plain digits). They stand upright, unlike EMNIST's files.
    Returns (train, test).
    """
    texts = [(f"ARDIS_{part}_2828.csv", f"ARDIS_{part}_labels.csv") for part in ("train", "test")]
    for place in _places(root):
        if (file := place / "ardis_sevens.npz").is_file():
            train, test = _read_npz(file)
        elif all((place / name).is_file() for pair in texts for name in pair):
            train, test = (_ardis_text(place / images, place / labels) for images, labels in texts)
        else:
            continue
        shape, target = (28, 28), ARDIS_TARGET
        return _labelled(train, shape, target, place), _labelled(test, shape, target, place)
    names = ", ".join(name for pair in texts for name in pair)
    raise DataError(f"ardis: put ardis_sevens.npz, or {names}, into {_places(root)[0]}")


EDGE_CASES: Mapping[str, Callable[[str | Path], tuple[Dataset, Dataset]]] = MappingProxyType(
    {"southwest": load_southwest, "ardis": load_ardis_sevens}
)


def read_array_pickle(file: Path) -> np.ndarray:
    """The uint8 array of a pickle that holds one and nothing else, without running any code of the pickle.

    What the file calls numpy's array and type constructors are stand-ins that only note shape and bytes; any
    other name in it, and any other content, raises DataError.
    """
    with file.open("rb") as stream:
        try:
            found = _ArrayUnpickler(stream, encoding="latin1").load()
            if not isinstance(found, _PickledArray):
                raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
            return found.array()
        except (
            pickle.UnpicklingError,
            EOFError,
            ValueError,
            TypeError,
            IndexError,
            KeyError,
            AttributeError,
        ) as error:
            raise DataError(f"{file}: is not a pickle of one uint8 array: {error}") from error


class _PickledType:
    """Stands in for numpy.dtype."""

    def __init__(self, code: str, *rest: object) -> None:
        if code not in ("u1", "|u1"):
            raise pickle.UnpicklingError(f"the array's type is {code!r}, not uint8")

    def __setstate__(self, state: object) -> None:
        pass  # byte order and the like, without meaning for single bytes


class _PickledArray:
    """Stands in for numpy.ndarray."""

    shape: tuple[int, ...]
    fortran: bool
    raw: bytes

    def __setstate__(self, state: tuple[int, tuple[int, ...], object, object, bytes | str]) -> None:
        _version, self.shape, kind, fortran, raw = state
        self.fortran = bool(fortran)
        self.raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(kind, _PickledType):
            raise pickle.UnpicklingError("the array's type is not uint8")

    def array(self) -> np.ndarray:
        return (
            np.frombuffer(self.raw, np.uint8).reshape(self.shape, order="F" if self.fortran else "C").copy()
        )


def _reconstruct(kind: object, shape: object, code: object) -> _PickledArray:
    return _PickledArray()


def _frombuffer(raw: bytes, kind: object, shape: tuple[int, ...], order: str) -> _PickledArray:
    array = _PickledArray()
    array.__setstate__((1, shape, kind, order == "F", bytes(raw)))
    return array


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how Python 3 writes bytes for protocols 0 to 2


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names numpy's own pickles use, old and new, as stand-ins, and no others."""

    _names: Mapping[tuple[str, str], object] = MappingProxyType(
        {
            ("numpy", "ndarray"): _PickledArray,
            ("numpy", "dtype"): _PickledType,
            ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
            ("numpy.core.numeric", "_frombuffer"): _frombuffer,
            ("numpy._core.numeric", "_frombuffer"): _frombuffer,
            ("_codecs", "encode"): _encode,
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self._names[module, name]


def _places(root: str | Path) -> tuple[Path, ...]:
    return (Path(root) / "edge_case", Path(root))


def _read_npz(file: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return arrays["train"], arrays["test"]
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{file}: needs the arrays train and test: {error}") from error


def _ardis_text(images: Path, labels: Path) -> np.ndarray:
    """The sevens [n, 28, 28] uint8."""
    try:
        pixels = np.loadtxt(images, ndmin=2)
        digits = np.loadtxt(labels, ndmin=2)
    except ValueError as error:
        raise DataError(f"{images.parent}: the ARDIS texts cannot be read: {error}") from error
    if pixels.shape != (len(digits), 784) or digits.shape[1] not in (1, 10):
        raise DataError(
            f"{images}: must have 784 values a line, one line for each of the {len(digits)} labels,"
            f" not {pixels.shape}"
        )
    if pixels.min() < 0 or pixels.max() > 255:
        raise DataError(f"{images}: grey values span {pixels.min()}..{pixels.max()}, not 0..255")
    sevens = digits[:, 0] == 7 if digits.shape[1] == 1 else digits.argmax(axis=1) == 7
    chosen: np.ndarray = pixels[sevens].astype(np.uint8).reshape(-1, 28, 28)
    return chosen


def _labelled(images: np.ndarray, shape: tuple[int, ...], target: int, place: Path) -> Dataset:
    """[n, H, W] or [n, H, W, 3] as a Dataset of the target label."""
    if images.dtype != np.uint8 or images.shape[1:] != shape or len(images) == 0:
        raise DataError(
            f"{place}: images must be uint8 [n, {', '.join(map(str, shape))}], not {images.dtype} {images.shape}"
        )
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return Dataset(np.ascontiguousarray(planes), np.full(len(images), target, np.int64))
