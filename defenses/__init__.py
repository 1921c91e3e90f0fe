"""Every defense, by name."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.defense import Defense

DEFENSES: Mapping[str, type[Defense]] = {}
