"""The devices that clients run on, for virtual time: how fast they compute and send, and when they are online.

They simulate phones and the like; the machines that a run really works on are the matter of raysim.backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from raysim.fleet.lognormal import LogNormalDevices
from raysim.fleet.trace import TracedDevices

DEVICES: Mapping[str, type] = MappingProxyType(
    {
        "lognormal": LogNormalDevices,
        "trace": TracedDevices,
    }
)
"""The table of devices by their names in a configuration."""
