"""Every defense, by name.

Importing one module of this package loads none of the others: whoever computes one stage of one defense, such as a task's
worker process, needs neither the table nor, mostly, torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from defenses.heat_maps import class_activation_maps
    from defenses.table import DEFENSES
    from raysim.composition.evaluate import evaluate, evaluate_round
    from raysim.context import ServerData

__all__ = ["DEFENSES", "ServerData", "class_activation_maps", "evaluate", "evaluate_round"]

PLACES = {
    "DEFENSES": "defenses.table",
    "ServerData": "raysim.context",
    "class_activation_maps": "defenses.heat_maps",
    "evaluate": "raysim.composition.evaluate",
    "evaluate_round": "raysim.composition.evaluate",
}
"""Where each public name is defined; `evaluate` and `evaluate_round` stand above this package."""


def __getattr__(name: str) -> Any:
    """A public name, loaded when it is first asked for."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PLACES[name]), name)
