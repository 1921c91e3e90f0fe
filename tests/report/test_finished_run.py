"""Reading a run directory: types, nulls, order, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.errors import RecordError
from raysim.report.finished_run import REQUIRED, read_columns, read_finished_run
from raysim.runs.directory import schema


def test_reads_tables_and_settings(write_run):
    run = read_finished_run(write_run(rounds=4, clients=5))
    assert run.config["defense"] == {"name": "layercam_ae", "beta": 1.0}
    assert run.environment["commit"] == "0123abc"
    assert run.rounds["round"].tolist() == [0, 1, 2, 3]
    assert run.rounds["main_accuracy"].dtype == np.float64
    assert np.isnan(run.rounds["main_accuracy"]).tolist() == [False, True, False, True]
    assert run.clients["malicious"].sum() == 4 * 2
    assert set(run.clients["flagged"].tolist()) <= {0.0, 1.0}
    assert run.clients["reason"].tolist().count("non-finite") == 1


def test_null_flags_become_nan(write_run):
    run = read_finished_run(write_run(flags=False))
    assert np.isnan(run.clients["flagged"]).all()


def test_rounds_are_sorted(write_run):
    folder = write_run(rounds=3)
    table = pq.read_table(folder / "rounds.parquet")
    pq.write_table(table.take([2, 0, 1]), folder / "rounds.parquet")
    run = read_finished_run(folder)
    assert run.rounds["round"].tolist() == [0, 1, 2]
    assert run.rounds["train_loss"].tolist() == table["train_loss"].to_pylist()


def test_takes_the_heat_maps_of_the_last_round(write_run):
    folder = write_run(rounds=11, clients=4, maps=6)
    run = read_finished_run(folder)
    assert run.heat_maps is not None
    assert run.heat_maps.round == 10
    assert run.heat_maps.maps.shape == (4, 6, 6)
    assert run.heat_maps.reconstructed is not None
    np.testing.assert_array_equal(
        run.heat_maps.maps, np.load(folder / "artifacts" / "round-000010" / "heat_maps.npy")
    )


def test_maps_are_optional(write_run):
    assert read_finished_run(write_run(maps=None)).heat_maps is None


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_named(write_run, name):
    folder = write_run(maps=None)
    (folder / name).unlink()
    with pytest.raises(RecordError, match=rf"no {name};"):
        read_finished_run(folder)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_damaged_file_is_named(write_run, name):
    folder = write_run(maps=None)
    (folder / name).write_bytes(b"[1, 2")
    with pytest.raises(RecordError, match=name):
        read_finished_run(folder)


def test_settings_must_be_mappings(write_run):
    folder = write_run(maps=None)
    (folder / "environment.json").write_text("[]")
    with pytest.raises(RecordError, match=r"environment\.json: must hold a mapping, holds list"):
        read_finished_run(folder)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(RecordError, match="nowhere: no such run directory"):
        read_finished_run(tmp_path / "nowhere")


def test_a_missing_column_is_named(write_run):
    folder = write_run(maps=None)
    table = pq.read_table(folder / "spans.parquet").drop_columns(["wall_s", "retries"])
    pq.write_table(table, folder / "spans.parquet")
    with pytest.raises(RecordError, match=r"spans.parquet: no column wall_s, retries"):
        read_finished_run(folder)


def test_a_null_where_a_number_is_due_is_refused(tmp_path):
    row = {"round": 0, "client": 1, "malicious": True, "num_examples": 5}
    pq.write_table(pa.Table.from_pylist([row], schema=schema("clients")), tmp_path / "clients.parquet")
    columns = read_columns(tmp_path, "clients")
    assert np.isnan([columns["flagged"][0], columns["score"][0], columns["weight"][0]]).all()
    assert columns["reason"].tolist() == [""]
    rows = [row, {**row, "malicious": None}]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema("clients")), tmp_path / "clients.parquet")
    with pytest.raises(RecordError, match=r"clients.parquet: .*malicious.*nulls"):
        read_columns(tmp_path, "clients")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("client_ids", np.arange(3), r"client_ids.npy \(3,\)"),
        ("heat_maps", np.zeros((8, 4)), r"shape \(8, 4\)"),
        ("reconstructed_maps", np.zeros((8, 5, 4)), r"reconstructed_maps.npy \(8, 5, 4\)"),
        ("heat_maps", np.array([object()]), "heat_maps.npy: not a readable array"),
        ("client_ids", None, "client_ids.npy: missing"),
    ],
)
def test_maps_that_do_not_fit_are_refused(write_run, name, array, message):
    folder = write_run(rounds=1, maps=4)
    file = folder / "artifacts" / "round-000000" / f"{name}.npy"
    file.unlink()
    if array is not None:
        np.save(file, array)
    with pytest.raises(RecordError, match=message):
        read_finished_run(folder)
