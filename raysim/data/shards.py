"""A data set in a folder of Arrow files, its samples sorted by client, of which a run reads what its cohorts hold.

    shards.json          the index: shape and type of inputs, classes, and every file with its size and SHA-256
    train-00000.arrow    shards: Arrow IPC files of one record batch, whole clients one after the other; columns input
                         (fixed-shape tensor) and label (int64)
    clients.arrow        offsets [clients + 1] int64: client i holds the training samples offsets[i] : offsets[i + 1]
    test.arrow           the test set, in the form of a shard

`raysim.data.shard_writer` writes such a folder, its index last. Shards are mapped into memory where clients are hosted,
and the pages of a client's samples are let go as soon as they are copied: neither a process nor Ray's object store ever
holds the training set. Every machine that hosts clients finds all shards under the same path.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import numpy as np
from annotated_types import doc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysim.data.assignment import OwnerRuns
from raysim.data.dataset import Dataset, FederatedData
from raysim.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, OFFSETS, TEST = "shards.json", "clients.arrow", "test.arrow"
INPUT, LABEL = "input", "label"

Stored = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32"]
"""Types that inputs are stored in."""
Read = Literal["uint8", "float32", "int64"]
"""Types that they are read as: those of a `Dataset`."""

OPEN_SHARDS = 64
"""Shards that one column keeps mapped; calls of client hosts go through them in order."""

Files = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Number = Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(_Entry):
    """One file: its rows, the clients whose samples it holds, bytes, and SHA-256."""

    file: Files
    rows: Number
    clients: Number
    bytes: Number
    sha256: str


class Index(_Entry):
    """What `shards.json` says. inputs are stored as `stored` and read as `read`, times `scale` where that is float32."""

    version: Literal[1] = 1
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    stored: Stored
    read: Read
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    attack_std: tuple[float, ...] | None = None
    classes: tuple[str, ...]
    labels: tuple[Number, Number]
    """The lowest and the highest label of the training samples."""
    clients: Part
    test: Part
    train: Annotated[tuple[Part, ...], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """SHA-256 of the index, and so of all that it has the SHA-256 of: the first 16 digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def files(self) -> tuple[Part, ...]:
        """Every file."""
        return (*self.train, self.clients, self.test)


def shards(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    store: Annotated[
        Literal["shards", "memory"],
        doc(
            "shards: samples stay on disk, and hosts of clients read what a cohort holds; memory: all are loaded."
        ),
    ] = "shards",
    digest: Annotated[str | None, doc("Filled in: what identifies the samples of a run.")] = None,
) -> FederatedData:
    """A folder of Arrow shards sorted by client, `root`: images, tokens or features; for the natural partition.

    Written by `raysim data shard` or `raysim.write_shards`. Nothing of the training set is loaded or sent around:
    whoever hosts clients maps the shards into memory and reads their samples, so every machine needs all shards under
    the same path. Partitions other than natural load the labels, and hold an index of all samples. `limit` is refused:
    fewer clients are taken by population.clients.
    """
    if limit is not None:
        raise ConfigError("limit", "must be null: shards hold whole clients; take fewer of them", limit)
    root = root.absolute()
    index = read_index(root)
    require(root, index)
    for number in range(len(index.train)):
        opened(root, index, index.train[number])
    offsets = read_offsets(root, index)
    images, labels = (Column(root, index, name) for name in (INPUT, LABEL))
    train = Dataset(images[:], labels[:]) if store == "memory" else _unread(images, labels)
    runs = OwnerRuns(offsets)
    return FederatedData(
        "shards",
        train,
        _test_set(root, index),
        index.classes,
        index.mean,
        index.std,
        runs[:] if store == "memory" else runs,
        index.attack_std,
        digest=index.digest,
    )


class Column:
    """Inputs or labels of all training samples, read by rows: what an array [n, ...] would give for them.

    It is pickled as the place it reads from. nbytes: what it takes in memory, or in an object store.
    """

    nbytes = 0

    def __init__(self, folder: Path, index: Index, name: str) -> None:
        self.folder, self.index, self.name = folder, index, name
        self._starts = np.cumsum([0, *(part.rows for part in index.train)])
        self.shape = (int(self._starts[-1]), *(index.shape if name == INPUT else ()))
        self.ndim = len(self.shape)
        self.dtype = np.dtype(index.read if name == INPUT else np.int64)
        self._rows_of: Callable[[int], _Rows] = lru_cache(OPEN_SHARDS)(self._open)

    def __reduce__(self) -> tuple[type[Column], tuple[Path, Index, str]]:
        return Column, (self.folder, self.index, self.name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The rows, in that order, as a copy. DataError for a label outside the classes: the file is damaged."""
        rows = np.arange(*which.indices(len(self))) if isinstance(which, slice) else np.asarray(which)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        numbers = np.searchsorted(self._starts, rows, "right") - 1
        for number in np.unique(numbers):
            mine = numbers == number
            found[mine] = self._rows_of(int(number)).read(rows[mine] - self._starts[number])
        if self.name == INPUT:
            return found if self.index.scale == 1 else np.multiply(found, self.index.scale, found)
        if found.size and not 0 <= found.min() <= found.max() < len(self.index.classes):
            files = ", ".join(self.index.train[number].file for number in np.unique(numbers))
            rule = (
                f"labels span {found.min()}..{found.max()}, but there are {len(self.index.classes)} classes"
            )
            raise DataError(f"{self.folder}: {files}: {rule}: {_DAMAGED}")
        return found

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise DataError(
            f"{self.folder}: samples in shards are read by rows, not all at once: data.store=memory does"
        )

    def min(self) -> int:
        """The lowest label, as the index says."""
        return self.index.labels[0]

    def max(self) -> int:
        """The highest label, as the index says."""
        return self.index.labels[1]

    def require(self) -> None:
        """DataError unless all shards are here, on the machine that hosts clients."""
        require(self.folder, self.index)

    def _open(self, number: int) -> _Rows:
        mapped, batch = opened(self.folder, self.index, self.index.train[number])
        return _Rows(mapped, _array(batch, self.name))


class _Rows:
    """Rows [n, ...] of a file that is mapped into memory, `stored` there."""

    def __init__(self, mapped: mmap.mmap, stored: np.ndarray) -> None:
        self.mapped, self.stored = mapped, stored
        self.begin = stored.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
        self._advise("MADV_RANDOM")  # a cohort's next client lies elsewhere: nothing is read ahead of a page

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, as a copy; what follows one another is fetched from the disk in one go."""
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first == len(rows):
            size = self.stored.nbytes // len(self.stored)
            start = (self.begin + first * size) // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise("MADV_WILLNEED", start, self.begin + last * size - start)
        found: np.ndarray = self.stored[rows]
        self._advise("MADV_DONTNEED")  # the system's cache keeps the pages, this process none of them
        return found

    def _advise(self, name: str, *which: int) -> None:
        if (advice := getattr(mmap, name, None)) is not None:
            self.mapped.madvise(advice, *which)


_DAMAGED = "it is damaged (`raysim data check` names all such files); copy or write it again"


def read_index(folder: Path) -> Index:
    """The folder's index; DataError if there is none, or if it is none."""
    path = folder / INDEX
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        rule = "its index, which is written last: the folder is another, or writing it was not finished"
        raise DataError(f"shards: {folder} holds no {INDEX}, {rule}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place}: {first['msg']}; write the folder again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def require(folder: Path, index: Index) -> None:
    """DataError unless every file of the index is there in its full size."""
    sizes = {part.file: _size(folder / part.file) for part in index.files}
    if missing := [name for name, found in sizes.items() if found is None]:
        many = f"{len(missing)} of {len(sizes)} files are missing, {missing[0]} first"
        rule = "every machine that hosts clients needs all shards, under the same path: copy or mount them"
        raise DataError(f"{folder}: {many}; {rule}")
    for part in index.files:
        if sizes[part.file] != part.bytes:
            many = f"has {sizes[part.file]:,} bytes, the index says {part.bytes:,}"
            raise DataError(
                f"{folder / part.file} {many}: it was cut short or replaced; copy or write it again"
            )


def check(folder: Path) -> Index:
    """The index, once every file has the SHA-256 that it says; DataError names the files that do not."""
    index = read_index(folder)
    require(folder, index)
    damaged = []
    for part in index.files:
        with (folder / part.file).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != part.sha256:
                damaged.append(part.file)
    if damaged:
        raise DataError(
            f"{folder}: {', '.join(damaged)}: not what was written, by SHA-256; copy or write again"
        )
    return index


def read_offsets(folder: Path, index: Index) -> np.ndarray:
    """Offsets [clients + 1] int64, mapped into memory; DataError unless they ascend over all training samples."""
    _, batch = _mapped(folder / OFFSETS)
    found: np.ndarray = batch.column(0).to_numpy()
    samples = sum(part.rows for part in index.train)
    whole = len(found) == index.clients.clients + 1 and found.dtype == np.int64
    if not whole or found[0] != 0 or found[-1] != samples or (found[1:] < found[:-1]).any():
        rule = f"must ascend from 0 to {samples:,} for {index.clients.clients:,} clients: {_DAMAGED}"
        raise DataError(f"{folder / OFFSETS}: offsets {rule}")
    return found


def opened(folder: Path, index: Index, part: Part) -> tuple[mmap.mmap, pa.RecordBatch]:
    """One file of samples mapped into memory; DataError unless its rows and types are what the index says."""
    path = folder / part.file
    mapped, batch = _mapped(path)
    wanted = schema(index.stored, index.shape)
    if not batch.schema.equals(wanted) or batch.num_rows != part.rows:
        has, should = (
            f"{rows:,} rows of {', '.join(f'{field.name}: {field.type}' for field in its)}"
            for rows, its in ((batch.num_rows, batch.schema), (part.rows, wanted))
        )
        raise DataError(
            f"{path} holds {has}; the index says {should}: it was replaced; copy or write it again"
        )
    return mapped, batch


def schema(stored: str, shape: tuple[int, ...]) -> pa.Schema:
    """The columns of a shard."""
    import pyarrow as pa

    value = pa.from_numpy_dtype(np.dtype(stored))
    return pa.schema([(INPUT, pa.fixed_shape_tensor(value, shape)), (LABEL, pa.int64())])


def _mapped(path: Path) -> tuple[mmap.mmap, pa.RecordBatch]:
    """An Arrow file's one batch, none of it read yet."""
    import pyarrow as pa

    with _readable(path):
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return mapped, pa.ipc.open_file(pa.py_buffer(mapped)).get_batch(0)


def _array(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column [n, ...] as it is stored, a view of the mapped file."""
    column: Any = batch.column(name)
    found: np.ndarray = column.to_numpy_ndarray() if name == INPUT else column.to_numpy()
    return found


def _test_set(folder: Path, index: Index) -> Dataset:
    _, batch = opened(folder, index, index.test)
    stored = _array(batch, INPUT)
    images = stored.astype(index.read)
    return Dataset(
        images if index.scale == 1 else images * np.float32(index.scale), _array(batch, LABEL).copy()
    )


def _unread(images: Column, labels: Column) -> Dataset:
    """A training set of columns, which offer of an array what reading rows takes."""
    return Dataset(cast(np.ndarray, images), cast(np.ndarray, labels))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Arrow's words for what is wrong with a file, in a DataError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        problem = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read as an Arrow file ({problem}): {_DAMAGED}") from error
