"""Writes a data set as Arrow shards sorted by client, a stream of clients at a time; see `raysim.data.shards`."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from raysim.data.shard_index import INDEX, OFFSETS, TEST, Index, Part, Read, Stored
from raysim.data.shards import schema
from raysim.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

STORED: tuple[str, ...] = get_args(Stored)

SHARD_BYTES = 2**26
"""Inputs of one shard, in bytes: what the writer holds, and few enough files for many gigabytes."""

Samples = tuple[np.ndarray, np.ndarray]
"""Inputs [n, ...] and labels [n]."""

Clients = Samples | tuple[np.ndarray, np.ndarray, np.ndarray]
"""The samples of one client; or those of k clients, one after the other, with how many each has [k]."""


def write_shards(
    folder: str | Path,
    clients: Iterable[Clients],
    test: Samples,
    *,
    classes: int | Sequence[str],
    scale: float | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    attack_std: Sequence[float] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Index:
    """Write a data set into `folder`, new or empty, to be used by `data.name=shards data.root=FOLDER`.

    clients: one (inputs [n, ...], labels [n]) after the other, or (inputs, labels, sizes [k]) of k clients at a time; they
    are written as they come, so a generator of any length takes memory for two shards. test: the server's test set.
    All inputs have one shape and type: integers of 8 to 64 bits, floats of 16 or 32 (64 are rounded).
    classes: their number, or their names in the order of labels.

    What reaches the model: images [n, C, H, W] uint8 divided by 255; floats as they are; other integers as tokens,
    int64. With `scale` integers of any shape become float32 features, times scale. mean, std: per channel, applied
    after that; attack_std: see FederatedData. Sequences of several lengths have to be padded to one.

    Raises DataError for what cannot be stored, naming the client; nothing stays in the folder then. The index that is
    returned is written last.

    >>> import tempfile
    >>> rows = np.arange(12, dtype=np.uint16).reshape(6, 2), np.array([0, 1, 1, 0, 1, 0])
    >>> with tempfile.TemporaryDirectory() as place:
    ...     index = write_shards(place, [rows, rows], rows, classes=2)
    >>> index.read, index.clients.clients, index.train[0].rows
    ('int64', 2, 12)
    """
    place = Path(folder).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ConfigError("folder", "must be new or empty", str(place))
    if shard_bytes < 1:
        raise ConfigError("shard_bytes", "must be positive", shard_bytes, SHARD_BYTES)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    place.mkdir(parents=True, exist_ok=True)
    writer = _Writer(place, len(names), scale, shard_bytes)
    try:
        for block in clients:
            writer.add(*block)
        return writer.finish(test, names, mean, std, attack_std)
    except BaseException:
        for name in writer.written:
            (place / name).unlink(missing_ok=True)
        raise


@dataclass
class _Writer:
    """Gathers clients until a shard is full. rows_most: of a shard, but for a client that has more."""

    folder: Path
    num_classes: int
    scale: float | None
    shard_bytes: int
    written: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    held: list[Samples] = field(default_factory=list)
    held_rows: int = 0
    held_clients: int = 0
    sizes: array[int] = field(default_factory=lambda: array("q"))
    low: int = 2**62
    high: int = -1
    form: tuple[np.dtype[np.generic], tuple[int, ...]] | None = None

    def add(self, inputs: np.ndarray, labels: np.ndarray, sizes: np.ndarray | None = None) -> None:
        """The next clients."""
        many = np.array([len(labels)] if sizes is None else sizes, np.int64)
        who = f"client {len(self.sizes)}" + (
            f" to {len(self.sizes) + len(many) - 1}" if len(many) > 1 else ""
        )
        inputs, labels = self._checked(inputs, labels, who)
        if many.ndim != 1 or (many < 0).any() or many.sum() != len(labels):
            raise DataError(
                f"{who}: sizes must be samples of each client, {len(labels)} in all, not {many.sum()}"
            )
        row_bytes = inputs.dtype.itemsize * int(np.prod(inputs.shape[1:]))
        most = max(1, self.shard_bytes // row_bytes)
        self.sizes.frombytes(many.tobytes())
        ends, first, begun = np.cumsum(many), 0, 0
        while first < len(many):
            last = int(np.searchsorted(ends, begun + most - self.held_rows, "right"))
            if last <= first:
                if self.held_rows:
                    self._flush()
                    continue
                last = first + 1
            stop = int(ends[last - 1])
            self.held.append((inputs[begun:stop], labels[begun:stop]))
            self.held_rows += stop - begun
            self.held_clients += last - first
            first, begun = last, stop

    def finish(
        self,
        test: Samples,
        classes: tuple[str, ...],
        mean: Sequence[float],
        std: Sequence[float],
        attack_std: Sequence[float] | None,
    ) -> Index:
        """What is left, the test set, offsets and index."""
        if self.held_rows or self.held_clients:
            self._flush()
        if not self.parts or self.form is None or self.high < 0:
            raise DataError("shards: there are no training samples to write")
        low, high = self.low, self.high
        held_out = self._checked(*test, "the test set")
        if not len(held_out[1]):
            raise DataError("shards: the test set is empty")
        dtype, shape = self.form
        read, scale = self._reading(dtype, shape)
        ends = np.cumsum(np.concatenate([[0], np.frombuffer(self.sizes, np.int64)]))
        import pyarrow as pa

        offsets = pa.record_batch([pa.array(ends)], names=["offset"])
        index = Index(
            shape=shape,
            stored=cast(Stored, dtype.name),
            read=read,
            scale=scale,
            mean=tuple(map(float, mean)),
            std=tuple(map(float, std)),
            attack_std=None if attack_std is None else tuple(map(float, attack_std)),
            classes=classes,
            labels=(low, high),
            clients=self._write(OFFSETS, offsets, len(self.sizes)),
            test=self._write(TEST, self._batch(*held_out), 0),
            train=tuple(self.parts),
        )
        written = self.folder / f"{INDEX}.part"
        self.written += [written.name, INDEX]
        with written.open("w") as file:
            file.write(index.model_dump_json(indent=1))
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.folder / INDEX)
        return index

    def _checked(self, inputs: object, labels: object, who: str) -> Samples:
        """Inputs and labels as they are stored; DataError if they are not as all others."""
        images, classes = np.asarray(inputs), np.asarray(labels)
        if images.dtype == np.float64:
            images = images.astype(np.float32)
        if images.dtype.name not in STORED or images.ndim < 2:
            raise DataError(
                f"{who}: inputs must be [n, ...] of {', '.join(STORED)}, not {images.dtype} {images.shape}"
            )
        if self.form is None:
            self.form = images.dtype, images.shape[1:]
        if (images.dtype, images.shape[1:]) != self.form:
            rule = f"inputs must be {self.form[0]} {self.form[1]} as those of the first client"
            raise DataError(f"{who}: {rule}, not {images.dtype} {images.shape[1:]}")
        if images.dtype.kind == "f" and not np.isfinite(images).all():
            raise DataError(f"{who}: inputs must be finite")
        if classes.shape != images.shape[:1] or classes.dtype.kind not in "iu":
            raise DataError(
                f"{who}: labels must be integers [{len(images)}], not {classes.dtype} {classes.shape}"
            )
        classes = classes.astype(np.int64)
        if len(classes):
            low, high = int(classes.min()), int(classes.max())
            if low < 0 or high >= self.num_classes:
                raise DataError(f"{who}: labels span {low}..{high}, but there are {self.num_classes} classes")
            self.low, self.high = min(low, self.low), max(high, self.high)
        return images, classes

    def _reading(self, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> tuple[Read, float]:
        """What inputs are read as, and times what."""
        if dtype.kind == "f" or self.scale is not None:
            return "float32", 1.0 if self.scale is None else float(self.scale)
        return ("uint8" if dtype == np.uint8 and len(shape) == 3 else "int64"), 1.0

    def _flush(self) -> None:
        inputs, labels = (np.concatenate(arrays) for arrays in zip(*self.held, strict=True))
        name = f"train-{len(self.parts):05d}.arrow"
        self.parts.append(self._write(name, self._batch(inputs, labels), self.held_clients))
        self.held, self.held_rows, self.held_clients = [], 0, 0

    def _batch(self, inputs: np.ndarray, labels: np.ndarray) -> pa.RecordBatch:
        import pyarrow as pa

        columns = schema(inputs.dtype.name, inputs.shape[1:])
        rows = pa.FixedSizeListArray.from_arrays(pa.array(inputs.ravel()), int(np.prod(inputs.shape[1:])))
        tensors = pa.ExtensionArray.from_storage(columns.field(0).type, rows)
        return pa.record_batch([tensors, pa.array(labels)], schema=columns)

    def _write(self, name: str, batch: pa.RecordBatch, clients: int) -> Part:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as file:
            file.write_batch(batch)
        content = sink.getvalue()
        self.written.append(name)
        (self.folder / name).write_bytes(content)
        return Part(
            file=name,
            rows=batch.num_rows,
            clients=clients,
            bytes=content.size,
            sha256=hashlib.sha256(content).hexdigest(),
        )
