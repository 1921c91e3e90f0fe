"""Checkpoints: the whole state of a run as safetensors plus JSON, without pickle.

`checkpoints/round-000010/` holds the state after 10 rounds: `arrays.safetensors` and `state.json`, a tree
in which `{"array": "<key>"}` stands for an array, `{"scalar": "<key>"}` for a number of numpy's (which is not
Python's: float32 times float64 is float64), and `{"tree": {...}}` for a dict. It is written beside its place
and renamed into it, so a checkpoint is there whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from raysim.errors import RecordError


def save(folder: Path, rounds_done: int, state: dict[str, Any], keep: int) -> Path:
    """Save a state tree; afterwards only the newest `keep` checkpoints are left.

    Raises TypeError for what a checkpoint cannot hold.
    """
    arrays: dict[str, np.ndarray] = {}
    tree = _to_json(state, "", arrays)
    target = folder / f"round-{rounds_done:06d}"
    temporary = folder / f".{target.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(arrays, temporary / "arrays.safetensors")
    (temporary / "state.json").write_text(json.dumps(tree))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(folder.glob("round-[0-9]*"))


def load(path: Path) -> dict[str, Any]:
    """The state tree in one checkpoint; RecordError when it is damaged."""
    try:
        arrays = load_file(path / "arrays.safetensors")
        tree = json.loads((path / "state.json").read_text())
        state = _from_json(tree, arrays)
    except Exception as error:
        raise RecordError(f"checkpoint {path} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise RecordError(f"checkpoint {path} is damaged: the top level of state.json is not a mapping")
    return state


def _to_json(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
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
        return {"tree": {key: _to_json(item, f"{path}/{key}", arrays) for key, item in value.items()}}
    if isinstance(value, list | tuple):
        return [_to_json(item, f"{path}/{number}", arrays) for number, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"state at {path or 'the root'} holds a {type(value).__name__}; "
        "only arrays, numbers, strings, lists and dicts can be checkpointed"
    )


def _from_json(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if "array" in value:
            return arrays[value["array"]]
        if "scalar" in value:
            return arrays[value["scalar"]][()]
        return {key: _from_json(item, arrays) for key, item in value["tree"].items()}
    if isinstance(value, list):
        return [_from_json(item, arrays) for item in value]
    return value
