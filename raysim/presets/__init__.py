"""The experiments of five papers, cell by cell, generated from their tables.

One module a paper; each yields its presets. Beside them lie presets written by hand, as YAML. Nothing here
imports torch, and a preset is only a mapping: raysim.config.schema makes a configuration of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

from raysim.presets import fedgrad, flare, gcama, layercam_ae, pdrr
from raysim.presets.preset import Preset, Scale

__all__ = ["PAPERS", "PRESETS", "Preset", "Scale", "generated"]

PRESETS = Path(__file__).parent
"""The folder of the presets written as YAML."""

PAPERS: Mapping[str, Callable[[], Iterator[Preset]]] = MappingProxyType(
    {
        "gcama": gcama.presets,
        "layercam_ae": layercam_ae.presets,
        "fedgrad": fedgrad.presets,
        "pdrr": pdrr.presets,
        "flare": flare.presets,
    }
)


@cache
def generated() -> Mapping[str, Preset]:
    """Name -> preset, in the order of papers and tables."""
    found: dict[str, Preset] = {}
    for presets in PAPERS.values():
        for preset in presets():
            if preset.name in found:
                raise ValueError(f"two presets are called {preset.name}")
            found[preset.name] = preset
    return MappingProxyType(found)
