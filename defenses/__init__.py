"""Every defense, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from defenses.table import DEFENSES
from raysim.context import ServerData

if TYPE_CHECKING:
    from defenses.heat_maps import class_activation_maps
    from raysim.composition.evaluate import evaluate, evaluate_round

__all__ = ["DEFENSES", "ServerData", "class_activation_maps", "evaluate", "evaluate_round"]


def __getattr__(name: str) -> Any:
    """`evaluate`, `evaluate_round` and `class_activation_maps`: they stand above this package, or need torch."""
    if name in ("evaluate", "evaluate_round"):
        from raysim.composition import evaluate

        return getattr(evaluate, name)
    if name == "class_activation_maps":
        from defenses.heat_maps import class_activation_maps

        return class_activation_maps
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
