"""ByzFL, an independent implementation, as tests load it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import pytest


def byzfl_names(*modules: str) -> SimpleNamespace:
    """What these modules of ByzFL define, in one namespace; skips where it is not installed.

    They are loaded without the rest of the package, whose benchmark takes seconds to import.
    """
    found = importlib.util.find_spec("byzfl")
    if found is None:
        pytest.skip("byzfl is not installed")
    package = ModuleType("byzfl")
    package.__path__ = list(found.submodule_search_locations or ())
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "byzfl", package)
        for module in modules:
            names |= vars(importlib.import_module(f"byzfl.{module}"))
    return SimpleNamespace(**names)
