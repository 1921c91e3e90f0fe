"""A run's directory: tables and their columns, rounds that are whole and rounds that are not, digests."""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import fields

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.backends.telemetry import Span
from raysim.errors import RecordError
from raysim.metrics import Detection
from raysim.runs.directory import COLUMNS, RunDirectory, digest, environment, schema, write_atomically

SPAN = Span("train", 0, "node", 1.5, 0.25, 0.2, 100, 200, 2**20, 1, 50)


def round_row(number):
    values = {"int32": number, "float64": number + 0.5, "string": f"round {number}"}
    return {name: values[kind] for name, (kind, _) in COLUMNS["rounds"].items()}


def client_rows(number, count=3):
    return [
        {
            "round": number, "client": client, "malicious": client == 0, "flagged": None if client == 2 else True,
            "score": None, "weight": 0.25, "num_examples": 10 + client, "reason": "",
            "virtual_download_s": 1.5, "virtual_compute_s": None, "virtual_upload_s": 0.25,
            "staleness": 2,
        }
        for client in range(count)
    ]  # fmt: skip


def filled(path, rounds, finish=False):
    directory = RunDirectory(path)
    directory.start("rounds: 9\n", {"machine": "this"})
    for number in range(rounds):
        directory.write_artifacts(number, {"map": np.full(2, number)})
        directory.write_round(number, round_row(number), client_rows(number), [SPAN])
    if finish:
        directory.finish()
    return directory


def tables_of(path):
    return {table: (path / f"{table}.parquet").read_bytes() for table in COLUMNS}


def rounds_in(directory, table):
    return sorted(set(directory.read(table)["round"].to_pylist()))


# -- columns ------------------------------------------------------------------------------------------


def test_every_column_is_documented_with_a_type_of_parquets():
    for columns in COLUMNS.values():
        for name, (kind, meaning) in columns.items():
            assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
            assert kind in ("int32", "int64", "float64", "bool", "string")
            assert len(meaning) > 5
        assert "round" in columns
    for table in COLUMNS:
        names = [re.sub("bool_?", "bool", str(field.type)) for field in schema(table)]
        assert names == [kind.replace("float64", "double") for kind, _ in COLUMNS[table].values()]


def test_spans_and_detection_rates_have_a_column_each():
    assert [field.name for field in fields(Span)] == [name for name in COLUMNS["spans"] if name != "round"]
    assert {field.name for field in fields(Detection)} <= set(COLUMNS["rounds"])


@pytest.mark.parametrize("finish", [False, True])
def test_tables_have_the_documented_columns_and_the_rows_written(tmp_path, finish):
    directory = filled(tmp_path, 2, finish)
    for table in COLUMNS:
        assert directory.read(table).schema.equals(schema(table))
        if finish:
            assert pq.read_schema(tmp_path / f"{table}.parquet").equals(schema(table))
    assert directory.read("rounds").to_pylist() == [round_row(0), round_row(1)]
    assert directory.read("clients").to_pylist() == client_rows(0) + client_rows(1)
    assert directory.read("spans").to_pylist() == [{"round": number, **vars(SPAN)} for number in (0, 1)]
    assert directory.finished_rounds() == 2


def test_rows_with_other_columns_are_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    with pytest.raises(RecordError, match="a row of table clients lacks malicious, flagged, score, weight"):
        directory.write_round(0, round_row(0), [{"round": 0, "client": 1}], [])
    with pytest.raises(
        RecordError, match="table rounds has no column 'main_acuracy'; did you mean 'main_accuracy'"
    ):
        directory.write_round(0, {**round_row(0), "main_acuracy": 0.5}, client_rows(0), [SPAN])
    with pytest.raises(pa.ArrowException):
        directory.write_round(1, {**round_row(1), "clients": "three"}, [], [])
    assert directory.finished_rounds() == 0


def test_tables_of_an_earlier_version_are_read_and_continued(tmp_path):
    """They know nothing of what was moved, nor of owners: null, in finished tables and in parts of rounds."""
    directory = filled(tmp_path, 1, finish=True)
    directory.write_round(1, round_row(1), client_rows(1), [SPAN])
    for name in ("spans.parquet", "parts/spans/000001.parquet"):
        pq.write_table(pq.read_table(tmp_path / name).drop_columns(["bytes_moved", "owner"]), tmp_path / name)
    directory.write_round(2, round_row(2), client_rows(2), [SPAN])
    for _ in range(2):
        spans = directory.read("spans")
        assert spans.schema.equals(schema("spans"))
        assert spans["bytes_moved"].to_pylist() == [None, None, 50]
        assert spans["owner"].to_pylist() == [None, None, "engine"]
        directory.finish()
    directory.forget_rounds_from(2)
    assert directory.read("spans")["bytes_moved"].to_pylist() == [None, None]


# -- the directory ----------------------------------------------------------------------------------------


def test_a_directory_holds_one_run(tmp_path):
    directory = RunDirectory(tmp_path / "runs" / "one")
    with pytest.raises(RecordError, match=r"holds no run: config.yaml is missing"):
        directory.require()
    directory.start("rounds: 9\n", {"seed": 1})
    directory.require()
    assert (directory.path / "config.yaml").read_text() == "rounds: 9\n"
    assert json.loads((directory.path / "environment.json").read_text()) == {"seed": 1}
    with pytest.raises(RecordError, match="already holds a run"):
        directory.start("rounds: 8\n", {})
    assert (directory.path / "config.yaml").read_text() == "rounds: 9\n"


def test_a_run_without_rounds_has_empty_tables(tmp_path):
    directory = filled(tmp_path, 0)
    for table in COLUMNS:
        assert directory.read(table).num_rows == 0
        assert directory.read(table).schema.equals(schema(table))
    directory.finish()
    assert not (tmp_path / "rounds.parquet").exists()


def test_finish_merges_the_parts_and_may_be_called_again(tmp_path):
    directory = filled(tmp_path, 3)
    directory.finish()
    assert not (tmp_path / "parts").exists()
    written = tables_of(tmp_path)
    directory.finish()
    assert tables_of(tmp_path) == written
    assert sorted(item.name for item in tmp_path.iterdir() if item.name.startswith(".")) == []


def test_the_bytes_of_a_table_do_not_depend_on_how_it_came_about(tmp_path):
    once = filled(tmp_path / "once", 4, finish=True)
    twice = filled(tmp_path / "twice", 2, finish=True)
    for number in (2, 3):
        twice.write_round(number, round_row(number), client_rows(number), [SPAN])
        twice.finish()
    again = filled(tmp_path / "again", 4, finish=True)
    again.forget_rounds_from(2)
    for number in (2, 3):
        again.write_round(number, round_row(number), client_rows(number), [SPAN])
    again.finish()
    expected = tables_of(once.path)
    assert tables_of(twice.path) == expected
    assert tables_of(again.path) == expected


def test_artifacts_are_arrays_by_round(tmp_path):
    directory = filled(tmp_path, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "artifacts" / "round-000001" / "map.npy"), [1, 1])
    directory.write_artifacts(2, {})
    assert not (tmp_path / "artifacts" / "round-000002").exists()
    with pytest.raises(ValueError, match="pickle"):
        directory.write_artifacts(2, {"object": np.array([object()])})


# -- what a kill leaves ---------------------------------------------------------------------------------


def test_half_written_parts_are_not_read(tmp_path):
    """A round counts once its row of `rounds` is there; a .tmp file is no part."""
    directory = filled(tmp_path, 2)
    for table in ("spans", "clients"):
        source = tmp_path / "parts" / table / "000001.parquet"
        (tmp_path / "parts" / table / "000002.parquet").write_bytes(source.read_bytes())
    (tmp_path / "parts" / "rounds" / ".000002.tmp").write_bytes(b"PAR1 half")
    for table in COLUMNS:
        assert rounds_in(directory, table) == [0, 1]
    directory.finish()
    for table in COLUMNS:
        assert rounds_in(directory, table) == [0, 1]
    assert directory.read("clients").num_rows == 6


def test_a_kill_between_the_tables_of_finish_loses_nothing(tmp_path, monkeypatch):
    expected = filled(tmp_path / "calm", 3, finish=True)
    directory = filled(tmp_path / "killed", 3)
    replace, done = os.replace, []

    def die_after_two(source, target):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", die_after_two)
    with pytest.raises(KeyboardInterrupt):
        directory.finish()
    monkeypatch.setattr(os, "replace", replace)
    assert len(done) == 2
    for table in COLUMNS:
        assert rounds_in(directory, table) == [0, 1, 2]
        assert directory.read(table).equals(expected.read(table))
    directory.finish()
    assert tables_of(directory.path) == tables_of(expected.path)


@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("finish", [False, True])
def test_a_kill_while_rounds_are_forgotten_leaves_the_earlier_ones(tmp_path, monkeypatch, steps, finish):
    """However far `forget_rounds_from` came, rounds before it stay readable, also after a `finish`."""
    directory = filled(tmp_path, 4, finish)
    left = [steps]

    def counted(function):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", counted(os.replace))
        patched.setattr(os, "unlink", counted(os.unlink))
        with contextlib.suppress(KeyboardInterrupt):
            directory.forget_rounds_from(2)
    for _ in range(2):
        for table in COLUMNS:
            assert {0, 1} <= set(rounds_in(directory, table))
        directory.finish()
    directory.forget_rounds_from(2)
    for table in COLUMNS:
        assert rounds_in(directory, table) == [0, 1]


@pytest.mark.parametrize("finish", [False, True])
def test_forgetting_drops_later_rounds_of_everything(tmp_path, finish):
    directory = filled(tmp_path, 4, finish)
    for number in (1, 3):
        (tmp_path / "updates" / f"round-{number:06d}").mkdir(parents=True)
    directory.forget_rounds_from(2)
    for table in COLUMNS:
        assert rounds_in(directory, table) == [0, 1]
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [
        "round-000000",
        "round-000001",
    ]
    assert [path.name for path in (tmp_path / "updates").iterdir()] == ["round-000001"]
    directory.forget_rounds_from(0)
    assert directory.finished_rounds() == 0


def test_forgetting_nothing_changes_nothing(tmp_path):
    directory = filled(tmp_path, 2, finish=True)
    before = tables_of(tmp_path)
    directory.forget_rounds_from(2)
    assert tables_of(tmp_path) == before
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("name", ["rounds.parquet", "parts/clients/000001.parquet"])
def test_a_damaged_table_is_a_record_error_that_names_it(tmp_path, name):
    directory = filled(tmp_path, 2, finish=name == "rounds.parquet")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RecordError, match=rf"{re.escape(str(path))} is damaged"):
        directory.read("rounds" if name == "rounds.parquet" else "clients")


# -- the rest -------------------------------------------------------------------------------------------


def test_the_environment_names_versions_and_machine():
    about = environment(backend="inprocess", seed=4)
    assert about["versions"]["numpy"] == np.__version__
    assert set(about["versions"]) >= {"raysim", "torch", "ray", "pyarrow"}
    assert (about["backend"], about["seed"]) == ("inprocess", 4)
    assert about["cpus"] == os.cpu_count()
    assert about["commit"] is None or re.fullmatch(r"[0-9a-f]{40}\+?", about["commit"])
    json.dumps(about)


def test_a_digest_speaks_of_type_shape_and_values():
    base = np.arange(6, dtype=np.float32)
    known = digest(base)
    assert known == digest(np.arange(12, dtype=np.float32)[:6]) == digest(base.copy())
    others = [base.astype(np.float64), base.reshape(2, 3), base[::-1], np.nextafter(base, 9)]
    assert len({known, *(digest(other) for other in others), digest(base, base)}) == 6
    transposed = base.reshape(2, 3).T
    assert digest(transposed) == digest(transposed.copy())


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "digest.txt"
    write_atomically(path, b"first")

    def fail(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, b"second, longer")
    assert path.read_bytes() == b"first"
