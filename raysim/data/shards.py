"""A data set in a folder of Arrow files, its samples sorted by client, of which a run reads what its cohorts hold.

    shards.json          the index: shape and type of inputs, classes, and every file with its size and SHA-256
    train-00000.arrow    shards: Arrow IPC files of one record batch, whole clients one after the other; columns input
                         (fixed-shape tensor) and label (int64)
    clients.arrow        offsets [clients + 1] int64: client i holds the training samples offsets[i] : offsets[i + 1]
    test.arrow           the test set, in the form of a shard

`raysim.data.shard_writer` writes such a folder, its index last. Shards are mapped into memory where clients are hosted,
and the pages of a client's samples are let go as soon as they are copied: neither a process nor Ray's object store ever
holds the training set. Machines that host clients hold all shards, or (store `nodes`) some each: what one lacks, others lend.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, cast

import numpy as np
from annotated_types import doc

from raysim.data.assignment import OwnerRuns
from raysim.data.dataset import Dataset, FederatedData
from raysim.data.shard_index import INDEX, INPUT, LABEL, OFFSETS, Index, Part, read_index
from raysim.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

Lender = Callable[[int, "Index", str, np.ndarray], np.ndarray]
"""Reads rows where they lie: (the number of a shard, the index with that one alone, the column, rows) -> what they store."""

OPEN_SHARDS = 64
"""Shards that one column keeps mapped; calls of client hosts go through them in order."""


def shards(
    root: Path,
    *,
    download: bool,
    seed: int,
    limit: int | None = None,
    store: Annotated[
        Literal["shards", "nodes", "memory"],
        doc(
            "shards: samples stay on disk, and hosts of clients read what a cohort holds; nodes: likewise, and every node holds "
            "some of the shards; memory: all are loaded."
        ),
    ] = "shards",
    digest: Annotated[str | None, doc("Filled in: what identifies the samples of a run.")] = None,
) -> FederatedData:
    """A folder of Arrow shards sorted by client, `root`: images, tokens or features; for the natural partition.

    Written by `raysim data shard` or `raysim.write_shards`. Nothing of the training set is loaded or sent around:
    whoever hosts clients maps the shards into memory and reads their samples, under the same path on every machine;
    environment variables in it are each machine's own. With `nodes`, a machine need not hold all shards: clients are
    hosted where theirs lie, and what is read elsewhere is sent; the one that starts the run needs the other files.
    Partitions other than natural load the labels, and hold an index of all samples. `limit` is refused: fewer
    clients are taken by population.clients.
    """
    if limit is not None:
        raise ConfigError("limit", "must be null: shards hold whole clients; take fewer of them", limit)
    root = root if "$" in str(root) else root.absolute()
    place = here(root)
    index = read_index(place)
    require(place, index, (index.clients, index.test) if store == "nodes" else None)
    for number in held(root, index):
        opened(place, index, index.train[number])
    offsets = read_offsets(place, index)
    images, labels = (Column(root, index, name, parted=store == "nodes") for name in (INPUT, LABEL))
    train = Dataset(images[:], labels[:]) if store == "memory" else _unread(images, labels)
    runs = OwnerRuns(offsets)
    return FederatedData(
        "shards",
        train,
        _test_set(place, index),
        index.classes,
        index.mean,
        index.std,
        runs[:] if store == "memory" else runs,
        index.attack_std,
        digest=index.digest,
    )


class Column:
    """Inputs or labels of all training samples, read by rows: what an array [n, ...] would give for them.

    It is pickled as the place it reads from. nbytes: what it takes in memory, or in an object store. parted: machines may
    hold some shards each; lend: reads from shards that this one lacks.
    """

    nbytes = 0

    def __init__(
        self, folder: Path, index: Index, name: str, *, parted: bool = False, lend: Lender | None = None
    ) -> None:
        self.folder, self.index, self.name = folder, index, name
        self.parted, self.lend = parted, lend
        self._starts = np.cumsum([0, *(part.rows for part in index.train)])
        self.shape = (int(self._starts[-1]), *(index.shape if name == INPUT else ()))
        self.ndim = len(self.shape)
        self.dtype = np.dtype(index.read if name == INPUT else np.int64)
        self._rows_of: Callable[[int], _Rows | _Lent] = lru_cache(OPEN_SHARDS)(self._open)

    def __reduce__(self) -> tuple[Callable[..., Column], tuple[object, ...]]:
        return partial(Column, parted=self.parted, lend=self.lend), (self.folder, self.index, self.name)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The rows, in that order, as a copy. DataError for a label outside the classes: the file is damaged."""
        rows = np.arange(*which.indices(len(self))) if isinstance(which, slice) else np.asarray(which)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        numbers = self._shards_of(rows)
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

    def expect(self, rows: np.ndarray) -> None:
        """Have the disk begin to read these rows, a client's, and do not wait for it; what other machines hold is left out."""
        numbers = self._shards_of(rows)
        for number in np.unique(numbers):
            self._rows_of(int(number)).expect(rows[numbers == number] - self._starts[number])

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
        """DataError unless all shards are here, on the machine that hosts clients, or can be borrowed."""
        if self.lend is None:
            require(here(self.folder), self.index)

    def _shards_of(self, rows: np.ndarray) -> np.ndarray:
        numbers: np.ndarray = np.searchsorted(self._starts, rows, "right") - 1
        return numbers

    def _open(self, number: int) -> _Rows | _Lent:
        file = self.index.train[number].file
        if self.parted and _size(here(self.folder) / file) is None:
            if self.lend is not None:
                return _Lent(self, number, self.lend)
            rule = "lies on other machines, and this one has to read all samples, if partition is not natural, server_data.source "
            raise DataError(f"{here(self.folder) / file}: {rule}is train, or clients train in this process")
        return _rows(self.folder, self.index, self.name, number)


@dataclass(frozen=True)
class _Lent:
    """Rows of a shard that other machines hold."""

    column: Column
    number: int
    lend: Lender

    def expect(self, rows: np.ndarray) -> None:
        """Nothing here: the machine that holds them reads them when it is asked."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, as a copy."""
        column = self.column
        try:
            return self.lend(self.number, column.index.alone(self.number), column.name, rows)
        except DataError as error:
            raise DataError(f"{column.index.train[self.number].file}: {error}") from error


class _Rows:
    """Rows [n, ...] of a file that is mapped into memory, `stored` there."""

    def __init__(self, mapped: mmap.mmap, stored: np.ndarray) -> None:
        self.mapped, self.stored = mapped, stored
        self.begin = stored.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
        self._advise("MADV_RANDOM")  # a cohort's next client lies elsewhere: nothing is read ahead of a page

    def expect(self, rows: np.ndarray) -> None:
        """Have the disk begin to read these rows, if they follow one another, in one go."""
        first, last = int(rows.min()), int(rows.max()) + 1
        if last - first == len(rows):
            size = self.stored.nbytes // len(self.stored)
            start = (self.begin + first * size) // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise("MADV_WILLNEED", start, self.begin + last * size - start)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """These rows, as a copy."""
        self.expect(rows)
        found: np.ndarray = self.stored[rows]
        self._advise("MADV_DONTNEED")  # the system's cache keeps the pages, this process none of them
        return found

    def _advise(self, name: str, *which: int) -> None:
        if (advice := getattr(mmap, name, None)) is not None:
            self.mapped.madvise(advice, *which)


_DAMAGED = "it is damaged (`raysim data check` names all such files); copy or write it again"


def here(folder: Path) -> Path:
    """The folder on this machine, whose own are the environment variables in it."""
    return Path(os.path.expandvars(folder))


def held(folder: Path, index: Index) -> list[int]:
    """Numbers of the shards that this machine holds. DataError for one that is not what the index says, and for another index."""
    place = here(folder)
    if (place / INDEX).exists() and read_index(place) != index:
        raise DataError(
            f"{place / INDEX} is of other data than where the run was started; copy or write the folder again"
        )
    found = [number for number, part in enumerate(index.train) if _size(place / part.file) is not None]
    require(place, index, [index.train[number] for number in found])
    return found


def read_there(folder: Path, number: int, alone: Index, name: str, rows: np.ndarray) -> np.ndarray:
    """What a machine that holds a shard reads for one that does not; number: for whoever looks for the machine."""
    return _rows(folder, alone, name, 0).read(rows)


def _rows(folder: Path, index: Index, name: str, number: int) -> _Rows:
    mapped, batch = opened(here(folder), index, index.train[number])
    return _Rows(mapped, _array(batch, name))


def require(folder: Path, index: Index, parts: Sequence[Part] | None = None) -> None:
    """DataError unless these files of the index, all if None, are there in their full size."""
    parts = index.files if parts is None else parts
    sizes = {part.file: _size(folder / part.file) for part in parts}
    if missing := [name for name, found in sizes.items() if found is None]:
        many = f"{len(missing)} of {len(sizes)} files are missing, {missing[0]} first"
        rule = "every machine that hosts clients needs all shards, under the same path: copy or mount them, or, if on Ray "
        raise DataError(f"{folder}: {many}; {rule}each node holds some, set data.store=nodes")
    for part in parts:
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
