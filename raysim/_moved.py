"""Import paths of version 0.1: they give the modules that moved, with a DeprecationWarning, until the next release.

One finder, asked last, serves `import raysim.records` as well as `from raysim.records import COLUMNS`, and hands out the
module itself, not a copy. A file for each old path would do the same, but would put forty names that nobody should use
beside those that matter. Remove this module, its line in `__init__.py` and its test together.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: Mapping[str, str] = {
    "raysim.backend": "raysim.backends.base",
    "raysim.checkpoint": "raysim.runs.checkpoint",
    "raysim.client": "raysim.engine.host",
    "raysim.cohort_training": "raysim.training.stacked",
    "raysim.command_options": "raysim.cli.options",
    "raysim.crafting": "raysim.engine.crafting",
    "raysim.drawn_updates": "raysim.engine.drawn_updates",
    "raysim.execution": "raysim.runs.execution",
    "raysim.experiment": "raysim.engine.experiment",
    "raysim.grid": "raysim.matrix.column_walk",
    "raysim.layout": "raysim.matrix.layout",
    "raysim.overrides": "raysim.config.overrides",
    "raysim.placement": "raysim.backends.placement",
    "raysim.plan": "raysim.composition.estimate",
    "raysim.progress": "raysim.report.progress",
    "raysim.ray_backend": "raysim.backends.ray_backend",
    "raysim.ray_cluster": "raysim.backends.ray_connection",
    "raysim.ray_driver": "raysim.runs.ray_driver",
    "raysim.recording": "raysim.engine.recording",
    "raysim.records": "raysim.runs.directory",
    "raysim.refusals": "raysim.config.validation",
    "raysim.replay_command": "raysim.studies.replays",
    "raysim.resources": "raysim.composition.resources",
    "raysim.results": "raysim.report.terminal",
    "raysim.round_record": "raysim.engine.round_record",
    "raysim.row_blocks": "raysim.matrix.row_blocks",
    "raysim.row_stage": "raysim.matrix.row_stage",
    "raysim.runner": "raysim.runs.runner",
    "raysim.server": "raysim.runs.server",
    "raysim.simulation": "raysim.engine.simulation",
    "raysim.synthetic_updates": "raysim.engine.synthetic_updates",
    "raysim.telemetry": "raysim.backends.telemetry",
    "raysim.updates": "raysim.matrix.updates",
}
"""Old path -> the module that has what it had."""

MOVED_NAMES: Mapping[str, Mapping[str, str]] = {
    "raysim.config": {"ExperimentConfig": "raysim.config.schema", "load_config": "raysim.config.load"},
    "raysim.training": {"LocalTrainer": "raysim.training.local"},
}
"""Old module that is a folder now -> public name -> the module that has it."""


class _Finder(MetaPathFinder, Loader):
    """Loads an old path by importing the new one in its place."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        _warn(old, MOVED[old], stacklevel=3)
        sys.modules[old] = importlib.import_module(MOVED[old])


def install() -> None:
    """Serve the old paths in this process; asking again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


def moved_names(package: str) -> Callable[[str], Any]:
    """`__getattr__` of a folder that was a module: its old public names, with a warning."""

    def __getattr__(name: str) -> Any:
        place = MOVED_NAMES[package].get(name)
        if place is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", f"{place}.{name}", stacklevel=3)
        return getattr(importlib.import_module(place), name)

    return __getattr__


def _warn(old: str, new: str, stacklevel: int) -> None:
    text = f"{old} is now {new}; the old path goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel)
