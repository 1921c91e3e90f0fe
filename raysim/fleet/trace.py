"""Devices that were measured: their speeds, and when they were online, read from tables."""

from __future__ import annotations

import dataclasses
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raysim import rng
from raysim.errors import ConfigError
from raysim.fleet.completion import Speeds
from raysim.fleet.contract import Devices
from raysim.options import Positive

SPEEDS = ("compute_ms", "down_kbps", "up_kbps")
INTERVALS = ("device", "start_s", "end_s")

Intervals = tuple[list[float], list[float]]
"""When a device is online: starts and ends in virtual seconds, ascending and apart."""


@dataclass(frozen=True)
class TracedDevices(Devices):
    """Each client gets a device of a table, drawn once; a second table says when that device is online.

    The table of devices (`file`: CSV with a header, or Parquet) has a row a device and the columns compute_ms (of a forward
    pass of one sample), down_kbps and up_kbps; further columns are ignored. The table of availability (`online`) has a
    row an interval: device (row of the other table, from 0), start_s, end_s. It begins anew every `period_s`, as
    FedScale's traces do; a device is offline at the end of an interval, and FedScale's still online. Clients share a
    device if there are more of them than devices (FedScale deals devices by id, one after another).
    """

    file: str
    """The table of devices, .csv or .parquet."""
    online: str | None = None
    """The table of intervals in which devices are online; null: always."""
    period_s: Positive | None = None
    """Virtual seconds after which availability begins anew; null: the end of the last interval."""
    digest: str | None = None
    """Filled in: SHA-256 of the tables."""

    def identified(self) -> TracedDevices:
        """The same with absolute paths and the digest of the tables; ConfigError if it has that of others."""
        found = hashlib.sha256()
        for key in ("file", "online"):
            path = getattr(self, key)
            try:
                found.update(b"" if path is None else hashlib.sha256(_absolute(path).read_bytes()).digest())
            except OSError as error:
                raise ConfigError(
                    key, f"must be a table that can be read ({error.strerror})", path
                ) from error
        digest = found.hexdigest()
        if self.digest not in (None, digest):
            rule = "must be the tables that the run was started with; their digest differs"
            raise ConfigError("file", rule, digest, self.digest)
        online = None if self.online is None else str(_absolute(self.online))
        return dataclasses.replace(self, file=str(_absolute(self.file)), online=online, digest=digest)

    def fleet(self, seed: int) -> TracedFleet:
        """The devices of all clients, from the tables."""
        self.identified()
        columns = _columns("file", self.file, SPEEDS)
        for name, values in columns.items():
            if not len(values):
                raise ConfigError("file", "must hold a device at least", self.file)
            if not (np.isfinite(values) & (values > 0)).all():
                bad = values[~(np.isfinite(values) & (values > 0))][0]
                raise ConfigError("file", f"its column {name} must hold finite numbers above 0", float(bad))
        speeds = Speeds(**columns)
        if self.online is None:
            if self.period_s is not None:
                rule = "must be left out without online, a table of when devices are online"
                raise ConfigError("period_s", rule, self.period_s)
            return TracedFleet(seed, speeds)
        intervals = _columns("online", self.online, INTERVALS)
        last = float(intervals["end_s"].max(initial=0))
        if self.period_s is not None and self.period_s < last:
            rule = "must not end before the last interval of `online`"
            raise ConfigError("period_s", rule, self.period_s, last)
        period = self.period_s or last
        return TracedFleet(seed, speeds, _by_device(intervals, len(speeds.compute_ms), period), period)


@dataclass(frozen=True)
class TracedFleet:
    """The devices of all clients; intervals: of each device; None: always online."""

    seed: int
    devices: Speeds
    intervals: Sequence[Intervals] | None = None
    period_s: float = np.inf

    @property
    def always_online(self) -> bool:
        """Whether no device is ever offline."""
        return self.intervals is None

    def speeds(self, clients: np.ndarray) -> Speeds:
        """How fast the devices of these clients [n] are."""
        rows = self._rows(clients)
        return Speeds(**{name: getattr(self.devices, name)[rows] for name in SPEEDS})

    def online_until(self, clients: np.ndarray, at_s: float) -> np.ndarray:
        """When each device [n] goes offline: see `Fleet.online_until`."""
        if self.intervals is None:
            return np.full(len(clients), np.inf)
        return np.array([self._until(self.intervals[row], at_s) for row in self._rows(clients)])

    def _until(self, intervals: Intervals, at_s: float) -> float:
        """When a device with these intervals goes offline that is online at `at_s`; otherwise `at_s`."""
        starts, ends = intervals
        within = at_s % self.period_s
        place = bisect_right(starts, within) - 1
        if place < 0 or within >= ends[place]:
            return at_s
        left = ends[place] - within
        if ends[place] == self.period_s and starts[0] == 0:  # it is still online when the trace begins anew
            left = np.inf if place == 0 else left + ends[0]
        return float(at_s + left)

    def _rows(self, clients: np.ndarray) -> np.ndarray:
        """The device of each client [n]: a row of the table."""
        count = len(self.devices.compute_ms)
        drawn = [rng.generator(self.seed, "device", client).integers(count) for client in clients]
        return np.array(drawn, np.int64)


def _absolute(file: str) -> Path:
    return Path(file).expanduser().absolute()


def _columns(key: str, file: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a table as float64 [rows] each; ConfigError if it is none, or lacks one."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    read = {".csv": pa.csv.read_csv, ".parquet": pa.parquet.read_table}.get(Path(file).suffix)
    if read is None:
        raise ConfigError(key, "must be a .csv or .parquet file", file)
    try:
        table = read(Path(file).expanduser())
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(key, f"must be a table that can be read ({error})", file) from error
    if lacking := [name for name in names if name not in table.column_names]:
        rule = f"must have the columns {', '.join(names)}; {', '.join(lacking)} is missing"
        raise ConfigError(key, rule, ", ".join(table.column_names))
    try:
        return {name: table.column(name).cast(pa.float64()).to_numpy() for name in names}
    except pa.ArrowException as error:
        raise ConfigError(key, f"must hold numbers in its columns ({error})", file) from error


def _by_device(columns: dict[str, np.ndarray], devices: int, period_s: float) -> list[Intervals]:
    """The intervals of each device in order, those that touch joined; ConfigError unless every device has some."""
    found: list[Intervals] = [([], []) for _ in range(devices)]
    order = np.lexsort((columns["start_s"], columns["device"]))
    for device, start, end in zip(*(columns[name][order].tolist() for name in INTERVALS), strict=True):
        if not (device % 1 == 0 and 0 <= device < devices):
            rule = f"its column device must hold rows of the table of devices, 0 to {devices - 1}"
            raise ConfigError("online", rule, device)
        starts, ends = found[int(device)]
        if not 0 <= start < end <= period_s or (ends and start < ends[-1]):
            rule = f"its intervals must begin at 0 or later, end after that, and not overlap (device {int(device)})"
            raise ConfigError("online", rule, [start, end])
        if ends and start == ends[-1]:
            ends[-1] = end
        else:
            starts.append(start)
            ends.append(end)
    if without := [device for device, (starts, _) in enumerate(found) if not starts]:
        rule = "must hold an interval of every device, since one that is never online takes no part"
        raise ConfigError("online", f"{rule}; {len(without)} have none, the first is", without[0])
    return found
