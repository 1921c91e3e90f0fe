"""What the tests of backends share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

SMALL_STORE = """
import json
import ray
import numpy as np
from raysim.backends import ray_connection
from raysim.backends.capacity import ClientActors
from tests.backends.test_doors import listening

def large(number):
    return np.full(6 * 2**20, number, np.float32), number

with ray_connection.connected(num_cpus=1, object_store_memory=80 * 2**20):
    from raysim.backends.ray_backend import RayBackend
    backend = RayBackend(ClientActors(0), workers=1)
    kept = backend.map("make", large, [(number,) for number in range(6)], keep=1)
    means = backend.map("add", lambda array: float(array.sum() / array.size), [made for made, _ in kept])
    spilled = [(span.bytes_spilled, span.bytes_restored) for span in backend.telemetry.drain() if span.task < 0]
    print(json.dumps({"listening": list(listening()), "means": means, "spilled": spilled}))
"""


@pytest.fixture(scope="session")
def small_store() -> dict[str, Any]:
    """What a program found that had imported Ray before, on a cluster of its own whose store has 80 MB: the addresses that
    its processes listen at, the means of six arrays of 24 MB, each full of its number, and of the stages that made and read them
    the bytes written to disk and read that had been."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    words = [sys.executable, "-c", SMALL_STORE]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=200)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
