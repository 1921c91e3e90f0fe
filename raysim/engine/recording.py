"""Record a round's updates once; replay any defense on exactly the same bytes.

    updates/round-000003/
        recording.json          client ids, examples, tiling, which rows were usable, checksums
        global.tensor           the global vector [d + b] the round began with, which the aggregate is added to
        tile-000-002.tensor     row block 0, column shard 2, float32; the last shard holds the buffers

Tensors are Arrow IPC messages: they are mapped back from disk, not read. A recording is written beside its
place and renamed into it, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysim.backends.base import Backend
from raysim.errors import RecordError
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import RowBlock, maxima_of
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class Recording:
    """One recorded round: what the defense was given, and the truth it was not."""

    round: int
    global_vector: np.ndarray
    updates: Updates
    usable: np.ndarray
    """[K] bool: rows the engine let through to the defense."""
    truth: np.ndarray
    """[K] bool: true attackers."""
    staleness: np.ndarray | None = None
    """[K] int64: global models that each row is behind, which it is discounted for already; None in synchronous rounds."""


def write(folder: Path, recording: Recording) -> Path:
    """Write one round into `folder`, tile by tile; returns its directory."""
    updates = recording.updates
    target = folder / f"round-{recording.round:06d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    checksums = {"global.tensor": _write_tensor(temporary / "global.tensor", recording.global_vector)}
    for number, block in enumerate(updates.blocks):
        for shard, tile in enumerate(block.tiles):
            name = _tile_name(number, shard)
            checksums[name] = _write_tensor(temporary / name, updates.backend.get(tile))
    about = {
        "round": recording.round,
        "client_ids": updates.client_ids.tolist(),
        "num_examples": updates.num_examples.tolist(),
        "usable": recording.usable.tolist(),
        "truth": recording.truth.tolist(),
        "bounds": list(updates.bounds),
        "blocks": [{"positions": b.positions.tolist(), "rows": b.rows.tolist()} for b in updates.blocks],
        "crc32": checksums,
    }
    if recording.staleness is not None:
        about["staleness"] = recording.staleness.tolist()
    (temporary / "recording.json").write_text(json.dumps(about))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def recorded_rounds(folder: Path) -> list[Path]:
    """The recordings in a folder, in order of rounds."""
    return sorted(folder.glob("round-[0-9]*"))


def read(path: Path, layout: Layout, backend: Backend, loader: Backend | None = None) -> Recording:
    """One recorded round, each row block's tiles mapped and kept by a task, wherever that runs.

    loader: the backend that runs these tasks, if it is not the one that is to work on the updates. A node that
    does not see the recording is given the tiles from here. Raises RecordError when a file is missing, was
    changed, or does not fit the layout.
    """
    path = path.absolute()
    with _damage_of(path):
        about = json.loads((path / "recording.json").read_text())
        global_vector = _read_tensor(path / "global.tensor", about["crc32"])
        shards = range(len(about["bounds"]))
        names = [[_tile_name(number, shard) for shard in shards] for number, _ in enumerate(about["blocks"])]
        items = [(path, of_block, {name: about["crc32"][name] for name in of_block}) for of_block in names]
        kept = (loader or backend).map("load", _load_tiles, items, keep=len(shards))
        blocks = []
        for block, item, (tiles, maxima) in zip(about["blocks"], items, kept, strict=True):
            if maxima is None:
                *loaded, maxima = _load_tiles(*item)
                tiles = tuple(backend.put(tile) for tile in loaded)
            blocks.append(RowBlock(np.array(block["positions"]), np.array(block["rows"]), tiles, maxima))
    if global_vector.size != layout.num_columns or about["bounds"][-1] != layout.dim:
        raise RecordError(
            f"recording {path} holds models of {global_vector.size} values, not {layout.num_columns}"
        )
    updates = Updates(
        backend=backend,
        layout=layout,
        client_ids=np.array(about["client_ids"], np.int64),
        num_examples=np.array(about["num_examples"], np.int64),
        bounds=tuple(about["bounds"]),
        blocks=tuple(blocks),
    )
    staleness = np.array(about["staleness"], np.int64) if "staleness" in about else None
    usable, truth = np.array(about["usable"]), np.array(about["truth"])
    return Recording(about["round"], global_vector, updates, usable, truth, staleness)


def _load_tiles(path: Path, names: Sequence[str], checksums: dict[str, int]) -> tuple[np.ndarray | None, ...]:
    """The tiles of one row block, and their maxima; all None if this machine does not see the recording."""
    if not path.exists():
        return (*(None for _ in names), None)
    with _damage_of(path):
        tiles = [_read_tensor(path / name, checksums) for name in names]
        return (*tiles, maxima_of(tiles))


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Turn errors met while reading into a RecordError that names the recording."""
    try:
        yield
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        problem = f"{type(error).__name__}: {error}"
        raise RecordError(
            f"recording {path} is damaged: {problem}; record the run again, with record.updates=true"
        ) from error


def _tile_name(block: int, shard: int) -> str:
    return f"tile-{block:03d}-{shard:03d}.tensor"


def _write_tensor(path: Path, array: np.ndarray) -> int:
    with pa.OSFile(str(path), "wb") as sink:
        pa.ipc.write_tensor(pa.Tensor.from_numpy(np.ascontiguousarray(array)), sink)
    return zlib.crc32(np.ascontiguousarray(array).data)


def _read_tensor(path: Path, checksums: dict[str, int]) -> np.ndarray:
    array: np.ndarray = pa.ipc.read_tensor(pa.memory_map(str(path))).to_numpy()
    if zlib.crc32(np.ascontiguousarray(array).data) != checksums[path.name]:
        raise RecordError(
            f"{path} was changed since it was recorded: its checksum differs; record the run again, with record.updates=true"
        )
    return array
