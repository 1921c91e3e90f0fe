"""The presets as a list to choose from: what each is, those of one paper, those that some words describe."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysim.config.load import preset_names, read_yaml
from raysim.errors import ConfigError, nearest_name
from raysim.presets import PAPERS, PRESETS, generated


@dataclass(frozen=True)
class PresetGroup:
    """The presets of one paper, or one that was written by hand."""

    name: str
    count: int
    description: str


def preset_descriptions() -> Mapping[str, str]:
    """Name -> one line on what it is; those written by hand first, then paper by paper."""
    return {name: _description(name) for name in preset_names()}


def preset_groups() -> list[PresetGroup]:
    """Every paper with the number of its presets, after those written by hand."""
    names = preset_names()
    alone = [PresetGroup(name, 1, _description(name)) for name in names if name not in generated()]
    sources = [preset.source for preset in generated().values()]
    return alone + [
        PresetGroup(paper, sources.count(paper), _first_line(sys.modules[presets.__module__].__doc__))
        for paper, presets in PAPERS.items()
    ]


def presets_with(words: Sequence[str]) -> Mapping[str, str]:
    """Those whose name and description hold all words, in any case; ConfigError if there are none."""
    every = preset_descriptions()
    found = {
        name: text
        for name, text in every.items()
        if all(word.lower() in f"{name} {text}".lower() for word in words)
    }
    if not found:
        known = {part for name, text in every.items() for part in (*name.split("/"), *text.split())}
        strange = next(
            (word for word in words if not any(word.lower() in part.lower() for part in known)), None
        )
        nearest = None if strange is None else nearest_name(strange, sorted(known))
        rule = "must be words that the name and description of some preset hold"
        raise ConfigError("presets", rule, " ".join(words), nearest)
    return found


def _description(name: str) -> str:
    if preset := generated().get(name):
        return preset.description
    for line in (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").strip()
    return ", ".join(
        f"{group} {value.get('name')}"
        for group, value in read_yaml(name).items()
        if isinstance(value, dict) and "name" in value
    )


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0]
