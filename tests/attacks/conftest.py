"""What the tests of attacks share beside `crafting` and `local_attackers`."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.peers import byzfl_names


@pytest.fixture(scope="session")
def byzfl_attacks() -> SimpleNamespace:
    """The attacks of ByzFL, and the rules they are searched against; skips where it is not installed."""
    return byzfl_names("aggregators.aggregators", "attacks.attacks")
