"""Image data sets in the Parquet layout of the Hugging Face hub.

Files `<split>-00000-of-0000N.parquet`, in the folder itself or in its sub-folder `data`; an image column
(`struct<bytes: binary, path: string>`, or binary) of encoded JPEG, PNG, ... files; a label column; class names
under the key `huggingface` of the schema's metadata; for federated data sets a column naming each sample's
client. Only the rows that a limit keeps are decoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raysim.data.class_labels import LabelColumn, encode
from raysim.data.dataset import Dataset
from raysim.data.images import ImageFormat, stack
from raysim.data.selection import Selection
from raysim.errors import ConfigError, DataError, nearest_name
from raysim.trees import Tree

TEST_SPLITS = ("test", "valid", "validation", "val")
LABEL_NAMES = ("label", "labels", "target", "class", "fine_label", "character")
CLIENT_NAMES = ("client_id", "client", "writer_id", "user_id", "user", "owner")


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None = found from the schema. `client` stays None if there is none."""

    image: str | None = None
    label: str | None = None
    client: str | None = None


@dataclass(frozen=True)
class ParquetImages:
    """What `load_split` returns."""

    train: Dataset
    test: Dataset
    classes: tuple[str, ...]
    owners: np.ndarray | None
    notes: tuple[str, ...] = ()


def find_files(folder: Path, split: str) -> list[Path]:
    """The split's files in order; empty if there are none. Raises DataError if some are missing."""
    for place in (folder, folder / "data"):
        files = sorted([*place.glob(f"{split}-*.parquet"), *place.glob(f"{split}.parquet")])
        if files:
            numbered = [match for file in files if (match := re.search(r"-of-(\d+)\.parquet$", file.name))]
            if numbered and len(files) != int(numbered[0][1]):
                raise DataError(
                    f"{place} has {len(files)} of the {int(numbered[0][1])} {split}-*.parquet files"
                )
            return files
    return []


def load_split(folder: Path, form: ImageFormat, columns: Columns, selection: Selection) -> ParquetImages:
    """Training set, test set, class names and owners of a folder of Parquet files.

    Without a test (or validation) file the selection's test share of the training rows becomes the test
    set. owners: [n_train] int64, the rank of the row's client among the sorted client names of all training
    rows. Raises DataError if files or columns are missing or ambiguous.
    """
    train_files = find_files(folder, "train")
    if not train_files:
        raise DataError(f"{folder} holds no train-*.parquet")
    train = _Table(train_files, columns)
    test_files = next((files for split in TEST_SPLITS if (files := find_files(folder, split))), [])
    if test_files:
        selection.accept_test_set(test_files[0])
        test = _Table(test_files, Columns(train.image, train.label, None))
        train_rows, test_rows = np.arange(train.num_rows), np.arange(test.num_rows)
    else:
        test = train
        train_rows, test_rows = selection.hold_out(train.num_rows)
    classes, train_labels, test_labels, notes = encode(train.labels(), test.labels())
    owners = None
    if train.client is not None:
        owners = np.unique(train.column(train.client), return_inverse=True)[1].astype(np.int64)

    train_rows = train_rows[selection.train(len(train_rows))]
    test_rows = test_rows[selection.test(len(test_rows))]
    images = train.images(train_rows, form)
    return ParquetImages(
        Dataset(images, train_labels[train_rows]),
        Dataset(test.images(test_rows, form.like(images)), test_labels[test_rows]),
        classes,
        None if owners is None else owners[train_rows],
        notes,
    )


@dataclass
class _Table:
    """One split: its files and the columns of interest."""

    files: Sequence[Path]
    columns: Columns
    parts: list[pq.ParquetFile] = field(init=False)
    image: str = field(init=False)
    label: str = field(init=False)
    client: str | None = field(init=False)

    def __post_init__(self) -> None:
        import pyarrow.parquet as pq

        self.parts = []
        for file in self.files:
            with _readable(file):
                self.parts.append(pq.ParquetFile(file, page_checksum_verification=True))
        schemas = [part.schema_arrow for part in self.parts]
        for file, schema in zip(self.files, schemas, strict=True):
            if not schema.equals(schemas[0]):
                raise DataError(f"{file} has other columns than {self.files[0]}")
        self.schema = schemas[0]
        self.features = _hub_features(self.schema)
        self.image = self._choose("image_column", self.columns.image, self._image_candidates())
        self.label = self._choose("label_column", self.columns.label, self._label_candidates())
        if self.columns.client is not None:
            self.client = self._choose("client_column", self.columns.client, [])
        else:
            named = [name for name in self.schema.names if name in CLIENT_NAMES]
            self.client = self._choose("client_column", None, named) if named else None

    @property
    def num_rows(self) -> int:
        return sum(part.metadata.num_rows for part in self.parts)

    def column(self, name: str) -> np.ndarray:
        """A whole column of plain values [num_rows]."""
        import pyarrow as pa

        columns = [_column(file, part, name) for file, part in zip(self.files, self.parts, strict=True)]
        values = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
        if values.null_count:
            raise DataError(f"{self.files[0]}: column {name} has {values.null_count} empty values")
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        array: np.ndarray = values.to_numpy()
        return array

    def labels(self) -> list[LabelColumn]:
        """The label column of every file."""
        return [_labels_of(file, part, self.label) for file, part in zip(self.files, self.parts, strict=True)]

    def images(self, rows: np.ndarray, form: ImageFormat) -> np.ndarray:
        """The images of `rows` [m], in that order, as uint8 [m, C, H, W]."""
        return stack(self._encoded(rows), len(rows), form)

    def _encoded(self, rows: np.ndarray) -> Iterator[tuple[int, bytes, str]]:
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        first = done = 0
        for file, part in zip(self.files, self.parts, strict=True):
            for group in range(part.num_row_groups):
                last = first + part.metadata.row_group(group).num_rows
                until = int(np.searchsorted(ascending, last))
                if until > done:
                    with _readable(file):
                        column = part.read_row_group(group, [self.image]).column(0)
                        values = _bytes_of(column.take(ascending[done:until] - first), file)
                    for place, row, value in zip(
                        order[done:until], ascending[done:until], values, strict=True
                    ):
                        yield int(place), value, f"{file.name}, row {row} of the split"
                first, done = last, until

    def _image_candidates(self) -> list[str]:
        marked = [name for name, feature in self.features.items() if feature.get("_type") == "Image"]
        return marked or [item.name for item in self.schema if _holds_bytes(item.type)]

    def _label_candidates(self) -> list[str]:
        marked = [name for name, feature in self.features.items() if feature.get("_type") == "ClassLabel"]
        return marked or [name for name in self.schema.names if name in LABEL_NAMES]

    def _choose(self, option: str, asked: str | None, candidates: Sequence[str]) -> str:
        names = self.schema.names
        if asked is not None:
            if asked not in names:
                rule = f"must be a column of {self.files[0].name}: {', '.join(names)}"
                raise ConfigError(option, rule, asked, nearest_name(asked, names))
            return asked
        if len(candidates) != 1:
            what = (
                f"could be {', '.join(candidates)}"
                if candidates
                else "is none of the columns by type or name"
            )
            raise DataError(
                f"{self.files[0]}: the {option.removesuffix('_column')} column {what};"
                f" give the option {option} (columns: {', '.join(names)})"
            )
        return candidates[0]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Turn Arrow's words for what is wrong with a file into a DataError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        problem = str(error).partition("\n")[0]
        raise DataError(
            f"{file}: cannot be read as Parquet: {problem}; fetch or write the file again"
        ) from error


def _column(file: Path, part: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    """One file's whole column."""
    with _readable(file):
        column = part.read([name]).column(0)
    if len(column) != part.metadata.num_rows:
        raise DataError(f"{file}: column {name} has {len(column)} of {part.metadata.num_rows} rows")
    return column


def _labels_of(file: Path, part: pq.ParquetFile, name: str) -> LabelColumn:
    import pyarrow as pa

    where, column = f"{file}: column {name}", _column(file, part, name)
    if column.null_count:
        raise DataError(f"{where} has {column.null_count} empty values")
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        rule = "class labels are whole numbers or names: convert the column, and drop rows without a label"
        raise DataError(f"{where} holds values of type {kind}; {rule}")
    # Distinct values are found among plain strings and numbers; not every type of them knows how.
    encoded = (column.cast(pa.large_string()) if text else column).combine_chunks().dictionary_encode()
    names = _hub_features(part.schema_arrow).get(name, {}).get("names")
    values, rows = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    return LabelColumn(where, values, rows, None if names is None else [str(item) for item in names])


def _hub_features(schema: pa.Schema) -> dict[str, Tree]:
    """Column descriptions from the hub's metadata; empty if there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"the schema's huggingface metadata cannot be read: {error!r}") from error
    return {name: feature for name, feature in features.items() if isinstance(feature, dict)}


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_bytes(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_of(column: pa.ChunkedArray, file: Path) -> list[bytes]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _holds_bytes(column.type):
        raise DataError(f"{file}: the image column is {column.type}, not encoded image files")
    values = pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column
    if values.null_count:
        raise DataError(f"{file}: {values.null_count} images have no bytes in the file (only a path)")
    blobs: list[bytes] = values.to_pylist()
    return blobs
