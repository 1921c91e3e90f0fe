"""What a run leaves behind: its directory, the tables and their columns.

    config.yaml         the resolved configuration
    began.json          what of it must not change when the run goes on, see resuming.py
    environment.json    versions, machine, nodes, commit
    layout.json         where each parameter and buffer of the model lies in the flat vector
    rounds.parquet      one row a round
    clients.parquet     one row a client and round
    spans.parquet       one row a stage (task = -1) or task
    artifacts/          arrays the defense kept, by round
    updates/            recorded updates, see recording.py
    checkpoints/        see checkpoint.py
    report.html         see report/
    parts/              one file a table and round while a run is going on

Every finished round is three small Parquet files, the row of `rounds` written last: a run that is killed
keeps all rounds that have one. `finish` turns the parts into the three tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raysim.backends.telemetry import Span
from raysim.errors import RecordError
from raysim.matrix.layout import Layout
from raysim.runs.table_schema import Columns, Rows, TableSchema, write_parquet
from raysim.trees import Tree
from raysim.version import __version__

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Mapping[str, Columns] = {
    "rounds": {
        "round": ("int32", "round number, from 0"),
        "clients": ("int32", "uploads received"),
        "malicious": ("int32", "true attackers in the cohort whose attack was active"),
        "flagged": ("int32", "uploads flagged by the defense or rejected by the engine"),
        "accepted": ("int32", "uploads with a weight above 0; all unflagged ones for coordinate-wise rules"),
        "main_accuracy": ("float64", "share of clean test samples classified right; NaN when not evaluated"),
        "main_loss": ("float64", "mean cross-entropy on the clean test set"),
        "attack_success_rate": (
            "float64",
            "share of triggered test inputs classified as the target; NaN without",
        ),
        "target_confidence": ("float64", "mean softmax probability of the target on triggered inputs"),
        "recall": ("float64", "flagged attackers / attackers; NaN when undefined"),
        "precision": ("float64", "flagged attackers / flagged"),
        "fpr": ("float64", "flagged benign / benign"),
        "acc": ("float64", "right verdicts / all"),
        "f1": ("float64", "harmonic mean of recall and precision"),
        "auc_hard": ("float64", "area under the ROC curve of the 0/1 verdicts"),
        "auc_score": ("float64", "rank AUC of the scores, ties one half"),
        "train_loss": ("float64", "mean training loss over honest clients"),
        "threshold": (
            "float64",
            "score above which the defense suspects a client; null if it has no such number",
        ),
        "virtual_start_s": (
            "float64",
            "virtual seconds from the start of the run to that of the round; null without population.devices",
        ),
        "virtual_s": (
            "float64",
            "virtual seconds from publishing the global model to the last upload that the server waits for",
        ),
        "staleness_mean": (
            "float64",
            "mean staleness of the uploads received, in global models; null in synchronous rounds",
        ),
        "staleness_max": ("int32", "largest of them"),
        "notes": ("string", "what attacks reported of themselves, and the engine of the round, as JSON"),
    },
    "clients": {
        "round": ("int32", "round number, from 0"),
        "client": ("int64", "client id"),
        "malicious": ("bool", "whether this client attacked in this round"),
        "flagged": ("bool", "the verdict; null if the defense does not exclude clients"),
        "score": ("float64", "suspicion, higher is worse; null if the defense has no score"),
        "weight": ("float64", "share in the aggregate; null for coordinate-wise rules"),
        "num_examples": ("int64", "claimed number of training samples"),
        "reason": ("string", "why the engine kept the upload from the defense; empty otherwise"),
        "virtual_download_s": (
            "float64",
            "virtual seconds of the client's download; null without population.devices, and if it was not asked to train",
        ),
        "virtual_compute_s": (
            "float64",
            "virtual seconds of its training, also where it would come too late",
        ),
        "virtual_upload_s": ("float64", "virtual seconds of its upload"),
        "staleness": (
            "int32",
            "how many global models it was behind: rounds from the one that began with what it was sent to this one; null in "
            "synchronous rounds",
        ),
    },
    "spans": {
        "round": ("int32", "round number, from 0"),
        "stage": ("string", "name of the stage"),
        "task": ("int32", "number of the task; -1: the whole stage as the server saw it"),
        "node": ("string", "node it ran on"),
        "start_s": ("float64", "start, seconds since the epoch"),
        "wall_s": ("float64", "wall-clock seconds"),
        "cpu_s": ("float64", "processor seconds of the process"),
        "bytes_in": ("int64", "bytes of arrays in the arguments"),
        "bytes_out": ("int64", "bytes of arrays in the results"),
        "peak_memory_bytes": ("int64", "peak resident memory of the process during the span"),
        "retries": (
            "int32",
            "times the task was started again; of the stage `restart`: servers of this run that died before, or returns to a "
            "checkpoint for what was lost with a node",
        ),
        "bytes_moved": ("int64", "bytes of arrays in the arguments that were brought from other nodes"),
        "bytes_returned": ("int64", "bytes of arrays in answers, brought to the server's node from others"),
        "bytes_spilled": ("int64", "bytes written to disk meanwhile for want of memory; of whole stages"),
        "bytes_restored": ("int64", "bytes of arguments that were written to disk before the task was begun"),
        "pid": ("int32", "process that it ran in; of a whole stage, the server's"),
        "owner": (
            "string",
            "who caused the work: client (local training), attack (crafting, and what its clients do beyond one training), "
            "defense, engine (the simulator)",
        ),
        "device": (
            "string",
            "what it ran on: cpu, cuda:0; of a whole stage, those of its tasks, joined by +",
        ),
        "peak_gpu_bytes": (
            "int64",
            "peak bytes of one process's tensors on its GPU during the span; null on a CPU",
        ),
    },
}
"""Table -> column -> (type, meaning). Units are in the names."""

LAYOUT = "layout.json"

TABLES: Mapping[str, TableSchema] = {
    "rounds": TableSchema(
        "rounds",
        COLUMNS["rounds"],
        version=4,
        later=("threshold", "virtual_start_s", "virtual_s", "staleness_mean", "staleness_max"),
    ),
    "clients": TableSchema(
        "clients",
        COLUMNS["clients"],
        version=3,
        later=("virtual_download_s", "virtual_compute_s", "virtual_upload_s", "staleness"),
    ),
    "spans": TableSchema(
        "spans",
        COLUMNS["spans"],
        version=5,
        later=(
            *("bytes_moved", "bytes_returned", "bytes_spilled", "bytes_restored", "pid"),
            *("owner", "device", "peak_gpu_bytes"),
        ),
    ),
}


def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table."""
    return TABLES[table].arrow


@dataclass(frozen=True)
class RunDirectory:
    """Writes and reads one run's directory."""

    path: Path

    def start(self, config_yaml: str, environment: Mapping[str, object]) -> None:
        """Create the directory; RecordError when a run is there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            write_once(self.path / "config.yaml", config_yaml.encode())
        except FileExistsError:
            rule = "already holds a run: resume it, or choose another --name"
            raise RecordError(f"{self.path} {rule}") from None
        self.describe(environment)

    @property
    def described(self) -> bool:
        """Whether it is written down where the run runs."""
        return (self.path / "environment.json").exists()

    def describe(self, environment: Mapping[str, object]) -> None:
        """Write down where the run runs."""
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2).encode())

    def environment(self) -> Tree:
        """What environment.json holds; {} if there is none."""
        path = self.path / "environment.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}

    def extend_environment(self, **values: object) -> None:
        """Add what is known only when the run is under way."""
        content = json.dumps({**self.environment(), **values}, indent=2).encode()
        write_atomically(self.path / "environment.json", content)

    def require(self) -> None:
        """RecordError unless a run is here."""
        if not (self.path / "config.yaml").exists():
            raise RecordError(f"{self.path} holds no run: config.yaml is missing")

    def write_layout(self, layout: Layout) -> None:
        """Keep where the model's tensors lie in the flat vector, so that it can be read without the model's code."""
        write_atomically(self.path / LAYOUT, json.dumps(layout.tree()).encode())

    def write_round(
        self, number: int, round_row: Mapping[str, object], clients: Rows, spans: Sequence[Span]
    ) -> None:
        """Keep one finished round. The `rounds` row is written last: its presence marks the round as complete."""
        self._write_part("spans", number, [{"round": number, **asdict(span)} for span in spans])
        self._write_part("clients", number, clients)
        self._write_part("rounds", number, [round_row])

    def write_artifacts(self, number: int, artifacts: Mapping[str, np.ndarray]) -> None:
        """Keep arrays of one round as .npy files."""
        if not artifacts:
            return
        folder = self.path / "artifacts" / f"round-{number:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in artifacts.items():
            with open(folder / f"{name}.npy", "wb") as file:
                np.save(file, np.asarray(array), allow_pickle=False)

    def forget_rounds_from(self, number: int) -> None:
        """Drop what was written of round `number` and later, so that a resumed run writes it again."""
        import pyarrow.compute as pc

        for table in COLUMNS:
            final = self.path / f"{table}.parquet"
            if not number:  # also where it is damaged
                final.unlink(missing_ok=True)
            if final.exists():
                whole = TABLES[table].read(final)
                kept = whole.filter(pc.less(whole["round"], number))
                if len(kept) < len(whole):
                    write_parquet(final, kept)
            for part in self._parts(table):
                if _number(part) >= number:
                    part.unlink()
        for kind in ("artifacts", "updates"):
            for folder in (self.path / kind).glob("round-*"):
                if _number(folder) >= number:
                    shutil.rmtree(folder)

    def finished_rounds(self) -> int:
        """How many rounds are whole."""
        return len(self.read("rounds"))

    def read(self, table: str) -> pa.Table:
        """One table: the finished file and, while the run goes on or after a kill, the parts of later rounds."""
        import pyarrow as pa

        final = self.path / f"{table}.parquet"
        tables = [TABLES[table].read(final)] if final.exists() else [TABLES[table].empty()]
        known = set(tables[0]["round"].to_pylist())
        whole = {_number(part) for part in self._parts("rounds")}
        new = [part for part in self._parts(table) if _number(part) in whole - known]
        return pa.concat_tables([*tables, *(TABLES[table].read(part) for part in new)])

    def finish(self) -> None:
        """Write the three tables from the parts, then drop the parts. Safe to call again."""
        if not (self.path / "parts").exists():
            return
        for table in COLUMNS:
            write_parquet(self.path / f"{table}.parquet", self.read(table))
        shutil.rmtree(self.path / "parts")

    def _write_part(self, table: str, number: int, rows: Rows) -> None:
        content = TABLES[table].table(rows)
        folder = self.path / "parts" / table
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / f"{number:06d}.parquet", content)

    def _parts(self, table: str) -> list[Path]:
        return sorted((self.path / "parts" / table).glob("[0-9]*.parquet"))


def environment(**extra: object) -> Tree:
    """Versions, machine and commit, for environment.json."""
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "commit": _commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        **extra,
    }


def digest(*arrays: np.ndarray) -> str:
    """A SHA-256 of arrays: types, shapes and bytes."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_once(path: Path, content: bytes) -> None:
    """Write a whole file, or FileExistsError if there is one; of several callers at once, one succeeds."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, it does not replace
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            with open(path, "xb") as file:
                file.write(content)
    finally:
        temporary.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("round-"))


@cache
def _versions() -> Mapping[str, str]:
    found = {"raysim": __version__}
    for name in ("torch", "torchvision", "ray", "numpy", "scikit-learn", "pyarrow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


WRITTEN = (":(top,exclude)docs/results", ":(top,exclude)README.md")
"""Paths that `make results` writes, as git leaves them out."""


def _commit() -> str | None:
    """The commit of the checkout raysim runs from, with "+" when it was changed; None outside of one.

    What measurements write for the documentation is no change.
    """
    folder = Path(__file__).parent
    try:
        run = [
            subprocess.run(
                ["git", *command], cwd=folder, capture_output=True, text=True, timeout=10, check=True
            )
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", ":/", *WRITTEN])
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    return run[0].stdout.strip() + ("+" if run[1].stdout.strip() else "")
