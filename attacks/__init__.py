"""Every attack, by name."""

from __future__ import annotations

from collections.abc import Mapping

from raysim.attack import Attack

ATTACKS: Mapping[str, type[Attack]] = {}
