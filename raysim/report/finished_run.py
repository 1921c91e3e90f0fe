"""Reads what a finished run left behind, for the report: tables as numpy columns, nulls as NaN.

The files and columns are those of raysim/runs/directory.py; other columns are ignored. Optional are the arrays
artifacts/round-*/heat_maps.npy [K, h, w], with client_ids.npy [K] beside them and, where the defense
reconstructs maps, reconstructed_maps.npy [K, h, w].
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysim.config.yaml_text import values_in
from raysim.errors import ConfigError, RecordError
from raysim.runs.directory import COLUMNS, TABLES
from raysim.trees import Tree

Columns = Mapping[str, NDArray[Any]]
"""A table: column name -> [rows]."""

NULLABLE = ("flagged",)
"""Flags that need not be known; they are read as 1, 0 or NaN. So are numbers that runs of earlier versions lack."""

REQUIRED = ("config.yaml", "environment.json", "rounds.parquet", "clients.parquet", "spans.parquet")


@dataclass(frozen=True)
class HeatMaps:
    """The maps of one round. maps: [K, h, w]; reconstructed: [K, h, w] or None; client_ids: int64 [K]."""

    round: int
    client_ids: NDArray[np.int64]
    maps: NDArray[np.float32]
    reconstructed: NDArray[np.float32] | None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read."""

    path: Path
    config: Tree
    config_text: str
    environment: Tree
    rounds: Columns
    clients: Columns
    spans: Columns
    heat_maps: HeatMaps | None


def read_finished_run(path: Path) -> FinishedRun:
    """Read a run directory; raises RecordError naming the file that is missing, damaged or lacks a column."""
    if not path.is_dir():
        raise RecordError(f"{path}: no such run directory")
    missing = [name for name in REQUIRED if not (path / name).is_file()]
    if missing:
        raise RecordError(f"{path}: no {', '.join(missing)}; a run writes them when it ends: resume it first")
    config_text = _read_text(path / "config.yaml")
    try:
        config = values_in(config_text, "config", source=str(path / "config.yaml")) or {}
        environment = json.loads(_read_text(path / "environment.json"))
    except (ConfigError, json.JSONDecodeError) as error:
        raise RecordError(f"{path}: config.yaml or environment.json is damaged: {error}") from error
    for name, value in (("config.yaml", config), ("environment.json", environment)):
        if not isinstance(value, dict):
            raise RecordError(f"{path / name}: must hold a mapping, holds {type(value).__name__}")
    rounds = read_columns(path, "rounds")
    order = np.argsort(rounds["round"], kind="stable")
    return FinishedRun(
        path=path,
        config=config,
        config_text=config_text,
        environment=environment,
        rounds={name: column[order] for name, column in rounds.items()},
        clients=read_columns(path, "clients"),
        spans=read_columns(path, "spans"),
        heat_maps=read_last_heat_maps(path / "artifacts"),
    )


def read_columns(folder: Path, table: str) -> Columns:
    """One table of a run as numpy columns; null becomes NaN in a float column and "" in text."""
    path = folder / f"{table}.parquet"
    try:
        stored = TABLES[table].read(path)
        nullable = (*NULLABLE, *TABLES[table].later)
        return {
            name: _to_numpy(stored.column(name), name, kind, name in nullable)
            for name, (kind, _) in COLUMNS[table].items()
        }
    except (pa.ArrowException, ValueError) as error:
        raise RecordError(f"{path}: not a readable table: {error}") from error


def read_last_heat_maps(artifacts: Path) -> HeatMaps | None:
    """The heat maps of the last round that recorded any, or None."""
    recorded = sorted(artifacts.glob("round-*/heat_maps.npy"), key=lambda file: _round_of(file.parent))
    if not recorded:
        return None
    folder = recorded[-1].parent
    maps = _read_array(folder / "heat_maps.npy")
    client_ids = _read_array(folder / "client_ids.npy")
    reconstructed = None
    if (folder / "reconstructed_maps.npy").is_file():
        reconstructed = _read_array(folder / "reconstructed_maps.npy")
    if maps.ndim != 3 or client_ids.shape != maps.shape[:1]:
        raise RecordError(
            f"{folder}: heat_maps.npy has shape {maps.shape}, client_ids.npy {client_ids.shape}, "
            "instead of [K, h, w] and [K]"
        )
    if reconstructed is not None and reconstructed.shape != maps.shape:
        raise RecordError(
            f"{folder}: reconstructed_maps.npy {reconstructed.shape}, heat_maps.npy {maps.shape}"
        )
    return HeatMaps(_round_of(folder), client_ids, maps, reconstructed)


def _round_of(folder: Path) -> int:
    try:
        return int(folder.name.removeprefix("round-"))
    except ValueError as error:
        raise RecordError(f"{folder}: not named round-<number>") from error


def _to_numpy(column: pa.ChunkedArray, name: str, kind: str, nullable: bool) -> NDArray[Any]:
    if kind == "string":
        return np.array([value or "" for value in column.to_pylist()], dtype=object)
    if kind == "float64":
        values: np.ndarray = column.cast(pa.float64()).to_numpy()
        return values
    if nullable:
        values = (column.cast(pa.int8()) if kind == "bool" else column).cast(pa.float64()).to_numpy()
        return values
    if column.null_count:
        raise ValueError(f"column {name} must be known in every row, and holds nulls")
    values = column.to_numpy().astype(np.bool_ if kind == "bool" else np.int64)
    return values


def _read_array(path: Path) -> NDArray[Any]:
    try:
        array: np.ndarray = np.load(path, allow_pickle=False)
        return array
    except FileNotFoundError as error:
        raise RecordError(f"{path}: missing beside heat_maps.npy") from error
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable array: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{path}: not readable: {error}") from error
