"""Dotted overrides on nested dicts: `defense.name=krum`, `attack.0.schedule.start=5`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raysim.config.yaml_text import MOST_DEPTH, values_in
from raysim.errors import ConfigError

KEPT_WHEN_RENAMED = {
    "attack": ("schedule", "clients"),
    "data": ("root", "partition", "limit", "download"),
    "training.optimizer": ("lr", "momentum", "weight_decay"),
}
"""Keys beside a name that are not the named thing's own options: they stay when another is named."""


def apply_overrides(values: Mapping[str, object], overrides: Sequence[str]) -> dict[str, object]:
    """Nested dicts with `a.b=value` applied in order; values are YAML.

    Naming another component (`defense.name=krum`) starts its options afresh, since they belonged to the
    one named before.
    """
    result: dict[str, object] = {key: _copy(value) for key, value in values.items()}
    renames = [text for text in overrides if text.partition("=")[0].endswith(".name")]
    for text in [*renames, *(text for text in overrides if text not in renames)]:
        key, equals, raw = text.partition("=")
        if not equals or not key:
            raise ConfigError("override", "must have the form KEY=VALUE", text)
        if key.count(".") >= MOST_DEPTH:
            raise ConfigError("override", f"must name a key by fewer than {MOST_DEPTH} parts", text)
        value = values_in(raw, key)
        _assign(result, key, value)
    return result


def _copy(value: object) -> object:
    """The same value; what an alias shares is shared no longer."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _assign(values: dict[str, object], key: str, value: object) -> None:
    *path, last = key.split(".")
    node: Any = values  # a dict or a list, by turns
    for depth, part in enumerate(path):
        place = _place(node, part, key)
        child = node[place] if isinstance(node, list) else node.get(place)
        if isinstance(child, str) or child is None:
            child = {} if child is None else {"name": child}
        elif isinstance(child, list) and last == "name" and depth == len(path) - 1:
            child = {}
        elif not isinstance(child, dict | list):
            raise ConfigError(key, f"{part} is a value, not a group", child)
        node[place] = child
        node = child
    place = _place(node, last, key)
    if last == "name" and path and node.get("name") not in (None, value):
        kept = KEPT_WHEN_RENAMED.get(".".join(part for part in path if not part.isdecimal()), ())
        for stale in [name for name in node if name not in kept]:
            del node[stale]
    node[place] = value


def _place(node: object, part: str, key: str) -> Any:
    """Where `part` of a dotted key leads in a dict, or in a list, whose items are named by their index."""
    if not isinstance(node, list):
        return part
    if not part.isdecimal() or int(part) >= len(node):
        raise ConfigError(key, f"must name an item of the list by its index, below {len(node)}", part)
    return int(part)
