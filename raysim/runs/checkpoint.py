"""Checkpoints: the whole state of a run as safetensors plus JSON, without pickle.

`checkpoints/round-000010/` holds the state after 10 rounds: `arrays.safetensors` and `state.json`, a tree
in which `{"array": "<key>"}` stands for an array, `{"scalar": "<key>"}` for a number of numpy's (which is not
Python's: float32 times float64 is float64), and `{"tree": {...}}` for a dict. What lies where a task left it
(`LeftBehind`) is fetched, written and let go one after the other, to a file of its own: `{"left": ["<file>", ...]}`; it
comes back as the tree it is. `manifest.json` has the SHA-256 of all files and of the configuration. A checkpoint is written beside its place, synced to the disk and renamed into
it, so it is there whole or not at all; what was changed since is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from raysim.backends.left_behind import LeftBehind
from raysim.errors import RecordError

ARRAYS, STATE = "arrays.safetensors", "state.json"


def save(
    folder: Path, rounds_done: int, state: dict[str, object], keep: int, configuration: str = ""
) -> Path:
    """Save a state tree; afterwards only the newest `keep` checkpoints are left.

    configuration: the digest of the configuration the state belongs to. Raises TypeError for what a checkpoint cannot
    hold, OSError if it cannot be written; the checkpoints before it then stay.
    """
    target = folder / f"round-{rounds_done:06d}"
    temporary = folder / f".{target.name}.tmp"
    for left in folder.glob(".round-*.tmp"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        arrays: dict[str, np.ndarray] = {}
        tree = _to_json(state, "", arrays, temporary)
        save_file(arrays, temporary / ARRAYS)
        (temporary / STATE).write_text(json.dumps(tree))
        sums = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps({"configuration": configuration, "sha256": sums}))
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
    except SafetensorError as error:
        raise OSError(f"{temporary}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("round-[0-9]*"))


def rounds_done(path: Path) -> int:
    """After how many rounds a checkpoint was saved."""
    return int(path.name.removeprefix("round-"))


def load(path: Path, configuration: str | None = None) -> dict[str, object]:
    """The state tree in one checkpoint.

    RecordError when a file is not what was saved, or when `configuration` is given and is not the digest of that it
    was saved with.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name in {ARRAYS, STATE, *manifest["sha256"]}:
            if _sha256(path / name) != manifest["sha256"][name]:
                raise ValueError(f"{name} is not what was saved: its SHA-256 differs from the manifest's")
        saved_with = manifest["configuration"]
        arrays = load_file(path / ARRAYS)
        state = _from_json(json.loads((path / STATE).read_text()), arrays, path)
        if not isinstance(state, dict):
            raise ValueError("the top level of state.json is not a mapping")
    except Exception as error:
        raise RecordError(f"checkpoint {path} is damaged: {type(error).__name__}: {error}") from error
    if configuration is not None and configuration != saved_with:
        raise RecordError(f"checkpoint {path} is foreign: it was saved with another configuration")
    return state


def sync(path: Path) -> None:
    """Have the operating system write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_json(value: object, path: str, arrays: dict[str, np.ndarray], folder: Path) -> object:
    if isinstance(value, LeftBehind):
        name, own = f"left-{len(list(folder.iterdir())):06d}.safetensors", dict[str, np.ndarray]()
        tree = _to_json(value.value, path, own, folder)
        save_file(own, folder / name)
        return {"left": [name, tree]}
    if isinstance(value, np.ndarray | np.number | np.bool_):
        if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8 or not value.dtype.isnative:
            raise TypeError(
                f"state at {path or 'the root'} holds an array of {value.dtype}: not a plain number"
            )
        key = f"{len(arrays)}{path}"
        arrays[key] = np.array(value, order="C")
        return {"array" if isinstance(value, np.ndarray) else "scalar": key}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"state at {path or 'the root'} has a key that is not a string")
        return {"tree": {key: _to_json(item, f"{path}/{key}", arrays, folder) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{path}/{number}", arrays, folder) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"state at {path or 'the root'} holds a {type(value).__name__}; "
        "only arrays, numbers, strings, lists and dicts can be checkpointed"
    )


def _from_json(value: object, arrays: dict[str, np.ndarray], folder: Path) -> object:
    if isinstance(value, dict):
        if "left" in value:
            name, tree = value["left"]
            return _from_json(tree, load_file(folder / name), folder)
        if "array" in value:
            return arrays[value["array"]]
        if "scalar" in value:
            return arrays[value["scalar"]][()]
        return {key: _from_json(item, arrays, folder) for key, item in value["tree"].items()}
    if isinstance(value, list):
        return [_from_json(item, arrays, folder) for item in value]
    return value
