"""Import torchvision beside a torch build that its compiled operators were not made for.

The published torchvision wheel links against CUDA libraries. Beside a CPU build of torch its extension does
not load, and `import torchvision` fails although networks, data sets and transforms are plain Python: it
describes two operators (`nms`, `qnms`) that only the extension declares. Declaring their schemas first is all
it takes. The operators themselves stay unavailable, as they are without the extension.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from types import ModuleType

import torch

_BOXES_TO_KEEP = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SCHEMAS = {"nms": _BOXES_TO_KEEP, "qnms": _BOXES_TO_KEEP}


def import_torchvision() -> ModuleType:
    """The torchvision package; nothing is declared where its extension loads. Call it as often as you like.

    Raises ImportError when torchvision is not installed.
    """
    if "torchvision" not in sys.modules and not _extension_loads():
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", schema)
    return importlib.import_module("torchvision")


def _extension_loads() -> bool:
    """Whether torchvision's own compiled operators load here; tried without importing torchvision."""
    package = importlib.util.find_spec("torchvision")
    if package is None:
        return False
    extension = PathFinder.find_spec("_C", package.submodule_search_locations)
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True
