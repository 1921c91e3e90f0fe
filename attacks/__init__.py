"""Every attack, by name; importing one module of this package loads none of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.table import ATTACKS

__all__ = ["ATTACKS"]


def __getattr__(name: str) -> Any:
    """The table, loaded when it is first asked for."""
    if name != "ATTACKS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from attacks.table import ATTACKS

    return ATTACKS
