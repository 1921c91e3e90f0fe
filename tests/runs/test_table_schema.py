"""Columns of a table: strict when written; older files are read, newer ones refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.errors import RecordError
from raysim.runs.directory import TABLES
from raysim.runs.table_schema import VERSION_KEY, TableSchema, write_parquet

COSTS = TableSchema("costs", {"stage": ("string", "name"), "wall_s": ("float64", "seconds")})
LATER = TableSchema(
    "costs",
    {**COSTS.columns, "owner": ("string", "whose"), "known": ("bool", "whether")},
    version=2,
    later=("owner", "known"),
)
ROW = {"stage": "cam", "wall_s": 0.5}


def test_rows_with_the_tables_columns_are_kept_as_they_are(tmp_path):
    write_parquet(tmp_path / "costs.parquet", COSTS.table([ROW, {**ROW, "wall_s": None}]))
    assert COSTS.read(tmp_path / "costs.parquet").to_pylist() == [ROW, {**ROW, "wall_s": None}]
    assert pq.read_schema(tmp_path / "costs.parquet").metadata[VERSION_KEY] == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["costs.parquet"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**ROW, "wal_s": 1.0}, r"^table costs has no column 'wal_s'; did you mean 'wall_s'\?$"),
        ({**ROW, "x": 1.0}, "^table costs has no column 'x'$"),
        ({"stage": "cam"}, "^a row of table costs lacks wall_s$"),
        ({}, "^a row of table costs lacks stage, wall_s$"),
    ],
)
def test_other_columns_are_refused_in_any_row(row, said):
    with pytest.raises(RecordError, match=said):
        COSTS.table([ROW, row])


def test_a_value_of_another_type_is_refused():
    with pytest.raises(pa.ArrowException):
        COSTS.table([{"stage": "cam", "wall_s": "long"}])


def test_a_file_of_an_earlier_version_is_read_with_null_in_what_came_later(tmp_path):
    path = tmp_path / "costs.parquet"
    write_parquet(path, COSTS.table([ROW]))
    read = LATER.read(path)
    assert read.to_pylist() == [{**ROW, "owner": None, "known": None}]
    assert read.schema.metadata[VERSION_KEY] == b"2"
    pq.write_table(pa.table({"stage": ["cam"], "wall_s": [0.5]}), path)  # from before versions were stated
    assert LATER.read(path).to_pylist() == [{**ROW, "owner": None, "known": None}]


def test_a_file_of_a_later_version_is_refused(tmp_path):
    path = tmp_path / "costs.parquet"
    write_parquet(path, LATER.table([{**ROW, "owner": "defense", "known": True}]))
    said = (
        r"costs.parquet was written by a later raysim: its columns have version 2, and this one reads up to 1"
    )
    with pytest.raises(RecordError, match=said):
        COSTS.read(path)


def test_a_file_that_lacks_a_column_it_always_had_is_refused(tmp_path):
    path = tmp_path / "costs.parquet"
    pq.write_table(pa.table({"stage": ["cam"]}), path)
    with pytest.raises(RecordError, match=r"costs\.parquet: no column wall_s$"):
        LATER.read(path)


@pytest.mark.parametrize(
    "metadata", [{"about": "{}"}, {"about": "{}", VERSION_KEY: b"1"}], ids=["none", "one"]
)
def test_what_a_file_says_of_itself_is_kept(tmp_path, metadata):
    path = tmp_path / "costs.parquet"
    write_parquet(path, COSTS.table([ROW]).replace_schema_metadata(metadata))
    assert COSTS.read(path).schema.metadata == {b"about": b"{}", VERSION_KEY: b"1"}


@pytest.mark.parametrize("content", [b"no table", b""])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "costs.parquet").write_bytes(content)
    with pytest.raises(RecordError, match=r"costs\.parquet is damaged"):
        COSTS.read(tmp_path / "costs.parquet")


def test_a_file_with_a_version_that_is_no_number_is_damaged(tmp_path):
    path = tmp_path / "costs.parquet"
    write_parquet(path, COSTS.table([ROW]).replace_schema_metadata({VERSION_KEY: b"two"}))
    with pytest.raises(RecordError, match=r"costs\.parquet is damaged"):
        COSTS.read(path)


def test_a_column_of_another_type_is_damage(tmp_path):
    path = tmp_path / "costs.parquet"
    pq.write_table(pa.table({"stage": ["cam"], "wall_s": ["long"]}), path)
    with pytest.raises(RecordError, match=r"costs\.parquet is damaged"):
        COSTS.read(path)


def test_columns_of_later_versions_of_a_runs_tables_are_columns():
    assert {name: table.version for name, table in TABLES.items()} == {"rounds": 4, "clients": 3, "spans": 5}
    for table in TABLES.values():
        assert set(table.later) <= set(table.columns)
