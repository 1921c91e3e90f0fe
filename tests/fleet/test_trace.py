"""Devices from tables: which client has which, when they are online, and what no table may hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from raysim.errors import ConfigError
from raysim.fleet.trace import TracedDevices

DEVICES = "name,compute_ms,down_kbps,up_kbps\nslow,30,1000,200\nfast,2,80000,20000\n"
CLIENTS = np.arange(200)


def written(folder: Path, text: str, name: str = "devices.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def traced(
    folder: Path, devices: str = DEVICES, online: str | None = None, **options: float
) -> TracedDevices:
    table = None if online is None else written(folder, online, "online.csv")
    return TracedDevices(written(folder, devices), table, **options)


def test_each_client_has_a_device_of_the_table(tmp_path: Path) -> None:
    fleet = traced(tmp_path).fleet(0)
    speeds = fleet.speeds(CLIENTS)
    found = set(
        zip(speeds.compute_ms.tolist(), speeds.down_kbps.tolist(), speeds.up_kbps.tolist(), strict=True)
    )
    assert found == {(30.0, 1000.0, 200.0), (2.0, 80000.0, 20000.0)}
    assert 70 < (speeds.compute_ms == 2.0).sum() < 130
    np.testing.assert_array_equal(fleet.speeds(CLIENTS[50:53]).compute_ms, speeds.compute_ms[50:53])
    assert fleet.always_online
    assert (fleet.online_until(CLIENTS[:2], 1.0) == np.inf).all()


def test_parquet_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "devices.parquet"
    pq.write_table(pa.csv.read_csv(written(tmp_path, DEVICES)), path)
    as_csv, as_parquet = traced(tmp_path).fleet(1), TracedDevices(str(path)).fleet(1)
    np.testing.assert_array_equal(as_csv.speeds(CLIENTS).up_kbps, as_parquet.speeds(CLIENTS).up_kbps)


ONE = "compute_ms,down_kbps,up_kbps\n5,1000,1000\n"


@pytest.mark.parametrize(
    ("at", "until"),
    [(0, 10), (9.5, 10), (10, 10), (15, 15), (20, 40), (35, 40), (40, 40), (50, 60), (69, 69), (150, 160)],
)
def test_online_in_its_intervals_again_and_again(tmp_path: Path, at: float, until: float) -> None:
    """[0, 10), [20, 30) and [30, 40), which touch, and [50, 60), in a period of 100 s."""
    text = "device,start_s,end_s\n0,20,30\n0,0,10\n0,30,40\n0,50,60\n"
    fleet = traced(tmp_path, ONE, text, period_s=100.0).fleet(0)
    assert fleet.online_until(np.array([7]), at) == pytest.approx(until)


def test_online_over_the_end_of_the_period(tmp_path: Path) -> None:
    text = "device,start_s,end_s\n0,0,10\n0,80,100\n"
    fleet = traced(tmp_path, ONE, text).fleet(0)
    assert fleet.online_until(np.array([0]), 90.0) == 110.0
    assert fleet.online_until(np.array([0]), 205.0) == 210.0
    ever = traced(tmp_path, ONE, "device,start_s,end_s\n0,0,50\n0,50,100\n").fleet(0)
    assert ever.online_until(np.array([0]), 90.0) == np.inf


def test_a_run_goes_on_with_the_tables_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, DEVICES)
    known = TracedDevices("devices.csv").identified()
    assert known.file == str(tmp_path / "devices.csv")
    assert known.identified() == known
    written(tmp_path, DEVICES.replace("30,", "31,"))
    with pytest.raises(ConfigError, match=r"file: must be the tables that the run was started with"):
        known.identified()


@pytest.mark.parametrize(
    ("devices", "online", "options", "said"),
    [
        ("compute_ms,down_kbps\n1,1\n", None, {}, r"file: must have the columns .*; up_kbps is missing"),
        ("compute_ms,down_kbps,up_kbps\n", None, {}, "file: must hold a device"),
        ("compute_ms,down_kbps,up_kbps\n0,1,1\n", None, {}, r"compute_ms must hold .* above 0; received 0.0"),
        ("compute_ms,down_kbps,up_kbps\n1,x,1\n", None, {}, "file: must hold numbers"),
        (ONE, None, {"period_s": 5.0}, "period_s: must be left out without online"),
        (ONE, "device,start_s,end_s\n0,0,9\n", {"period_s": 5.0}, "period_s: must not end before .* 9"),
        (ONE, "device,start_s,end_s\n1,0,9\n", {}, "online: its column device must hold rows"),
        (ONE, "device,start_s,end_s\n0,5,4\n", {}, "online: its intervals must begin at 0"),
        (ONE, "device,start_s,end_s\n0,0,4\n0,3,6\n", {}, "not overlap"),
        (DEVICES, "device,start_s,end_s\n0,0,4\n", {}, "1 have none, the first is; received 1"),
        (ONE, "device,start_s,end_s\n", {}, "1 have none"),
    ],
)
def test_tables_that_are_none(
    tmp_path: Path, devices: str, online: str | None, options: dict[str, float], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        traced(tmp_path, devices, online, **options).fleet(0)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"file: must be a \.csv or \.parquet file"):
        TracedDevices(written(tmp_path, DEVICES, "devices.txt")).fleet(0)
    with pytest.raises(ConfigError, match=r"file: must be a table that can be read \(No such file"):
        TracedDevices(str(tmp_path / "none.csv")).identified()
    with pytest.raises(ConfigError, match="file: must be a table that can be read"):
        TracedDevices(written(tmp_path, "no parquet", "devices.parquet")).fleet(0)
