"""Given weights: a file's tensors as the parameters and buffers that a run starts from.

A file is safetensors, or what torch saved of a `state_dict` (torchvision's, for one), read without running any code
that lies in it. Names are those of the network's own `state_dict`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raysim.errors import ConfigError, DataError, nearest_name

if TYPE_CHECKING:
    import torch
    from torch import nn

KEY = "model.weights"
SUFFIXES = (".safetensors", ".pth", ".pt")
SHOWN = 3
"""Names that an error repeats."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by name.

    ConfigError for a file that is not there or of another kind, DataError for one that cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(KEY, f"must be a file ending in {', '.join(SUFFIXES)}", str(path))
    if not path.is_file():
        raise ConfigError(KEY, "must be a file that is there", str(path))
    try:
        tensors = _read(path)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{KEY}: {path} cannot be read: {type(error).__name__}: {reason}") from error
    if not isinstance(tensors, dict) or not all(_is_tensor(value) for value in tensors.values()):
        raise ConfigError(KEY, "must hold tensors by name, as a state_dict does", str(path))
    return tensors


def file_digest(path: Path) -> str:
    """The SHA-256 of a file of weights; ConfigError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(KEY, f"must be a file that can be read ({error.strerror})", str(path)) from error


def load_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], fresh: Sequence[str] = ()) -> None:
    """Put the tensors into the model, all or none.

    fresh: names, or beginnings of names up to a dot, that keep the model's own values and are passed over in the file.
    ConfigError where names, shapes or kinds of numbers differ, and for values that float32 does not hold.
    """
    import torch

    own = model.state_dict()
    for name in fresh:
        if not any(_begins(known, name) for known in own):
            raise _unknown("model.fresh", name, [*own, *sorted({k.partition(".")[0] for k in own})])
    wanted = {name for name in own if not any(_begins(name, start) for start in fresh)}
    held = {name for name in tensors if not any(_begins(name, start) for start in fresh)}
    if lacking := [name for name in own if name in wanted - held]:
        raise _unlike("must hold every parameter and buffer of the network; it lacks", lacking, held - wanted)
    if beyond := [name for name in tensors if name in held - wanted]:
        raise _unlike("must hold what the network has and nothing else; it also holds", beyond, wanted)
    ready = {}
    for name in wanted:
        value, place = tensors[name], own[name]
        if value.shape != place.shape:
            rule = f"{name} must have the shape {tuple(place.shape)} (model.fresh={name} keeps the network's own)"
            raise ConfigError(KEY, rule, tuple(value.shape))
        if value.is_floating_point() != place.is_floating_point() or value.is_complex():
            raise ConfigError(KEY, f"{name} must hold numbers like {place.dtype}", str(value.dtype))
        ready[name] = value.to(place.dtype)
        if not torch.isfinite(ready[name]).all():
            raise ConfigError(KEY, f"{name} must hold finite numbers in {place.dtype}", "some are not")
        if name.rpartition(".")[2] == "running_var" and (ready[name] < 0).any():
            raise ConfigError(KEY, f"{name} must not be negative: it holds variances", "some are")
    with torch.no_grad():
        for name, value in ready.items():
            own[name].copy_(value)


def _read(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    inner = found.get("state_dict") if isinstance(found, dict) else None
    return inner if isinstance(inner, dict) else found


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _begins(name: str, start: str) -> bool:
    return name == start or name.startswith(f"{start}.")


def _unknown(key: str, name: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(key, "must name parameters or layers of the network", name, nearest_name(name, known))


def _unlike(rule: str, names: Sequence[str], others: set[str]) -> ConfigError:
    """Names that one side has alone, each with the nearest that only the other has."""
    told = []
    for name in names[:SHOWN]:
        near = nearest_name(name, others)
        told.append(name + (f" (nearest: {near})" if near else ""))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ConfigError(KEY, f"{rule} {', '.join(told)}{more}", len(names))
