"""The columns of a Parquet table: what is written holds exactly these, and what is read is understood or refused.

Files say in their metadata which version of the columns they were written with; files from before that say nothing,
and count as version 1. A reader takes older files, with null in the columns that came later, and refuses newer ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysim.errors import RecordError, nearest_name
from raysim.runs.checkpoint import sync

if TYPE_CHECKING:
    import pyarrow as pa

VERSION_KEY = b"raysim_version"
"""The metadata key under which a file states the version of its columns."""

Columns = Mapping[str, tuple[str, str]]
"""Column -> (type, meaning). Types are those of pyarrow; units are in the names."""

Rows = Sequence[Mapping[str, Any]]
"""Rows to be written or as read: column -> a value of the type that `Columns` says."""


@dataclass(frozen=True)
class TableSchema:
    """One table. later: columns that files of earlier versions lack; they are read as null there."""

    name: str
    columns: Columns
    version: int = 1
    later: Sequence[str] = ()

    @property
    def arrow(self) -> pa.Schema:
        """The Arrow schema; its metadata hold the version."""
        import pyarrow as pa

        fields = [
            pa.field(name, pa.bool_() if kind == "bool" else getattr(pa, kind)())
            for name, (kind, _) in self.columns.items()
        ]
        return pa.schema(fields, metadata={VERSION_KEY: str(self.version)})

    def table(self, rows: Rows) -> pa.Table:
        """These rows; RecordError for a column that the table does not have, or that a row lacks."""
        import pyarrow as pa

        for row in rows:
            for column in row:
                if column not in self.columns:
                    near = nearest_name(column, self.columns)
                    hint = f"; did you mean {near!r}?" if near else ""
                    raise RecordError(f"table {self.name} has no column {column!r}{hint}")
            missing = [column for column in self.columns if column not in row]
            if missing:
                raise RecordError(f"a row of table {self.name} lacks {', '.join(missing)}")
        return pa.Table.from_pylist(list(rows), schema=self.arrow)

    def read(self, path: Path) -> pa.Table:
        """The rows in a file; RecordError if it is damaged, lacks a column, or is of a later version."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(path)
            version = int((rows.schema.metadata or {}).get(VERSION_KEY, b"1"))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise RecordError(f"{path} is damaged: {error}") from error
        if version > self.version:
            raise RecordError(
                f"{path} was written by a later raysim: its columns have version {version}, and this one reads up to"
                f" {self.version}; update raysim to read it"
            )
        absent = [name for name in self.columns if name not in rows.column_names]
        unknown = [name for name in absent if name not in self.later]
        if unknown:
            raise RecordError(f"{path}: no column {', '.join(unknown)}")
        for name in absent:
            field = self.arrow.field(name)
            rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        notes = {**(rows.schema.metadata or {}), VERSION_KEY: str(self.version)}
        try:
            return rows.select(list(self.columns)).cast(self.arrow).replace_schema_metadata(notes)
        except (ValueError, pa.ArrowException) as error:
            raise RecordError(f"{path} is damaged: {error}") from error

    def empty(self) -> pa.Table:
        """The table without a row."""
        return self.arrow.empty_table()


def write_parquet(path: Path, table: pa.Table) -> None:
    """The whole file or nothing; its bytes follow from the rows alone, however the table was put together."""
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.stem}.tmp")
    try:
        pq.write_table(table.combine_chunks(), temporary)
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
