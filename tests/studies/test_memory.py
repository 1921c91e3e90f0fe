"""Memory while something runs: what a process holds, and what it gives back."""

from __future__ import annotations

import ctypes
import os

import numpy as np
import pytest

from raysim.studies.memory import give_back, resident


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_was_freed_is_given_back() -> None:
    """32 MiB in arrays too small to be mapped, freed below one that lives on: the C library keeps them until told."""
    freed = [np.ones(2**13) for _ in range(512)]
    above = np.ones(2**13)
    held = resident(os.getpid())
    del freed
    give_back()
    left = resident(os.getpid())
    assert held is not None
    assert left is not None
    assert held.private - left.private > 24 * 2**20
    assert above.sum() == 2**13
