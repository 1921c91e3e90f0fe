"""A disk that is full or read-only: a clear error, all finished rounds readable, resume once there is room.

On a small tmpfs of its own, which takes root and the right to mount.
"""

from __future__ import annotations

import subprocess

import pytest

import raysim
from raysim.errors import ConfigError, RunError
from raysim.runs.directory import RunDirectory
from raysim.runs.result import RunResult

CONFIG = {
    "rounds": 5,
    "population": {"clients": 4},
    "data": {"name": "digits", "limit": 100},
    "server_data": {"samples": 0},
    "checkpoint": {"every": 2},
    "record": {"updates": True},
}
"""Recordings of 4 x 13,706 parameters: 220 kB a round, and 110 kB a checkpoint."""


def mount(*words):
    return subprocess.run(["mount", *words], capture_output=True, text=True)


@pytest.fixture
def disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place))
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    result = raysim.run(CONFIG, name="calm", out=tmp_path_factory.mktemp("calm"), backend="inprocess")
    return results(result.path)


def results(path):
    return {name: (path / name).read_bytes() for name in ("digest.txt", "clients.parquet", "rounds.parquet")}


def test_a_disk_that_fills_up_keeps_the_finished_rounds(disk, expected):
    with pytest.raises(RunError, match=r"round \d, stage record: .*No space left on device"):
        raysim.run(CONFIG, name="run", out=disk, backend="inprocess")
    finished = RunDirectory(disk / "run").finished_rounds()
    assert 0 < finished < 5
    mount("-o", "remount,size=64m", str(disk))
    raysim.resume(disk / "run", backend="inprocess")
    assert results(disk / "run") == expected


def test_a_run_on_a_full_disk_says_so_and_begins_when_there_is_room(disk, expected):
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"):
        filler.write_bytes(b"0" * 2**21)
    with pytest.raises(OSError, match="No space left"):
        raysim.run(CONFIG, name="run", out=disk, backend="inprocess")
    filler.unlink()
    mount("-o", "remount,size=64m", str(disk))
    if (disk / "run" / "config.yaml").exists():
        raysim.resume(disk / "run", backend="inprocess")
    else:
        raysim.run(CONFIG, name="run", out=disk, backend="inprocess")
    assert results(disk / "run") == expected


def test_a_finished_run_on_a_disk_that_cannot_be_written_stays_readable(disk, expected):
    mount("-o", "remount,size=64m", str(disk))
    path = raysim.run({**CONFIG, "rounds": 1}, name="run", out=disk, backend="inprocess").path
    mount("-o", "remount,ro", str(disk))
    assert len(RunResult(path).rounds) == 1
    with pytest.raises(OSError, match="Read-only file system"):
        raysim.resume(path, backend="inprocess", rounds=5)
    mount("-o", "remount,rw", str(disk))
    raysim.resume(path, backend="inprocess", rounds=5)
    assert results(path) == expected


def test_on_a_disk_that_cannot_be_written_nothing_starts(disk, tmp_path):
    mount("-o", "remount,ro", str(disk))
    with pytest.raises(ConfigError, match=r"^out: must be a folder that can be written"):
        raysim.run(CONFIG, name="run", out=disk, backend="inprocess")
    assert list(disk.iterdir()) == []
