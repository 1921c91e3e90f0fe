"""Where the real data sets are, for tests marked `data`."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder RAYSIM_TEST_DATA names; skips where it is not set."""
    named = os.environ.get("RAYSIM_TEST_DATA")
    if not named:
        pytest.skip("RAYSIM_TEST_DATA names no folder of real data sets")
    return Path(named)
