"""Our packages beside a user's own modules of the same names.

raysim comes with top-level packages called `attacks`, `defenses` and `cluster`, and a script's folder comes first when
Python looks for modules: a user's own `attacks.py` beside the script hides ours. Both can be had. Where the user's
program imports its own module, that module is given our folder as the place of its submodules, in which everything
of ours lies (`attacks.krum`). Where raysim is the first to need the package, or on Ray's workers, ours is taken.
Only a folder of the user's with a file that we have too is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

NAMES = ("attacks", "defenses", "cluster")

ROOT = Path(__file__).resolve().parents[1]


class BothFinder:
    """A finder for the names that are ours: the user's module if there is one, with our submodules."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for everything but a user's module of one of our names."""
        if name not in NAMES:
            return None
        found = PathFinder.find_spec(name, path)
        if found is None or found.origin == str(ROOT / name / "__init__.py"):
            return None
        found.submodule_search_locations = [*(found.submodule_search_locations or ()), *_ours(name, found)]
        return found


class OursFinder:
    """A finder that finds our packages where they lie, whatever the current folder holds."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None for everything but our names."""
        if name not in NAMES:
            return None
        place = ROOT / name
        return spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])


def share_names() -> None:
    """Let a user's own modules and our packages of the same names live side by side from now on."""
    for name in NAMES:
        module = sys.modules.get(name)
        if module is not None and not is_ours(module):
            spec = module.__spec__
            places = list(getattr(module, "__path__", ()))
            module.__path__ = [*places, *(place for place in _ours(name, spec) if place not in places)]
    if BothFinder not in sys.meta_path:
        sys.meta_path.insert(0, BothFinder)


def take_names() -> None:
    """Let our packages be found first from now on, under those of their names that nothing is loaded under yet."""
    if OursFinder not in sys.meta_path:
        sys.meta_path.insert(0, OursFinder)


def is_ours(module: ModuleType) -> bool:
    """Whether a module is the package that came with raysim."""
    return getattr(module, "__file__", None) == str(ROOT / module.__name__ / "__init__.py")


def _ours(name: str, found: ModuleSpec | None) -> list[str]:
    """Our folder; ImportError if the user's folder has a file that we have too."""
    for place in (found.submodule_search_locations if found else None) or ():
        both = {path.name for path in Path(place).glob("*.py")} & {
            path.name for path in (ROOT / name).glob("*.py")
        }
        if clash := sorted(both - {"__init__.py"}):
            raise ImportError(
                f"{Path(place) / clash[0]} has the name of a module of raysim's package {name}: rename the folder {place}"
            )
    return [str(ROOT / name)]
