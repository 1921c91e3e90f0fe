"""Classes and functions of the caller's own on Ray's workers: sent by value, since workers cannot import them."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

OWN = ("raysim", "attacks", "defenses", "cluster")


@contextmanager
def by_value(things: Iterable[object]) -> Iterator[None]:
    """Inside the block Ray pickles what the modules of these objects define by value, and their neighbours.

    Modules: those in which the objects, or their classes, are defined, and those loaded from the folders that these are
    imported from, with all packages below; but none of an installed package, which workers import as this process does.
    `__main__` goes by value anyway. What is imported only while a method works is not loaded yet: on other machines
    `resources.runtime_env` has to bring it.
    """
    from ray import cloudpickle

    modules = [module for module in callers_own(things) if module.__name__ not in registered(cloudpickle)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def callers_own(things: Iterable[object]) -> list[ModuleType]:
    """The modules to send, in the order of their names."""
    names = {getattr(thing, "__module__", None) or type(thing).__module__ for thing in things}
    sources = [sys.modules[name] for name in names if name in sys.modules]
    folders = {_imported_from(module) for module in sources if not is_installed(module)}
    beside = {
        module.__name__: module
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        and (file := getattr(module, "__file__", None))
        and folders & set(Path(file).parents)
        and not is_installed(module)
    }
    return [module for name, module in sorted(beside.items()) if name in sys.modules]


def _imported_from(module: ModuleType) -> Path:
    """The folder that holds the module, or the package at its top."""
    depth = module.__name__.count(".") + hasattr(module, "__path__")
    return Path(module.__file__ or "").parents[depth]


def is_installed(module: ModuleType) -> bool:
    """Whether a worker has the module too: Python's own, an installed package, raysim; `__main__` goes by value anyway."""
    top, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if file is None or top in ("__main__", "__mp_main__"):
        return True
    if top in OWN:
        return _beside_raysim(file)
    if "site-packages" in file:  # most of them, and often below the program's own folder
        return True
    return bool(_library_folders() & set(Path(file).resolve().parents)) or top in _distributed()


def _beside_raysim(file: str) -> bool:
    return Path(__file__).resolve().parents[2] in Path(file).resolve().parents


@cache
def _library_folders() -> frozenset[Path]:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return frozenset(Path(sysconfig.get_path(kind)).resolve() for kind in kinds)


@cache
def _distributed() -> frozenset[str]:
    """Top-level names of installed distributions, editable ones too. Read once: it takes a while if there are many."""
    return frozenset(metadata.packages_distributions())


def registered(cloudpickle: ModuleType) -> set[str]:
    """Names of the modules that are sent by value already."""
    return set(cloudpickle.list_registry_pickle_by_value())
