"""Every attack, by name."""

from attacks.table import ATTACKS

__all__ = ["ATTACKS"]
