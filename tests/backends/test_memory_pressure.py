"""Too little memory: workers that Ray's memory monitor kills, and an object store that spills to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ray


SCRIPT = """
import json, time
from raysim import RunError
from raysim.backends import ray_connection
from raysim.backends.capacity import ClientActors

class Sleeper:
    def sleep(self, seconds):
        time.sleep(seconds)

with ray_connection.connected(num_cpus=1, object_store_memory=80 * 2**20):
    from raysim.backends import ray_backend
    ray_backend.RETRIES = 1
    backend = ray_backend.RayBackend(ClientActors(1), workers=1)
    backend.start_clients(Sleeper, ())
    calls = backend.call_clients("sleep", "sleep", [(30,)])
    try:
        task = backend.map("nap", time.sleep, [(30,)])
    except RunError as error:
        task = str(error)
print(json.dumps([calls, task]))
"""


def test_workers_killed_for_want_of_memory_are_retried_then_lost_or_named():
    """The threshold lies below what the machine uses already, so every worker is killed, every time."""
    environment = {
        **os.environ,
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_memory_usage_threshold": "0.01",
    }
    words = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=200)
    calls, task = json.loads(done.stdout.splitlines()[-1])
    assert calls == [None]
    assert task.startswith("stage nap: task 0: ")
    assert "low on memory" in task
    assert "\n" not in task


def test_what_does_not_fit_the_object_store_is_spilled_and_comes_back(small_store):
    assert small_store["means"] == [0, 1, 2, 3, 4, 5]
    one = 24 * 2**20
    (made, nothing_read), (more, read) = small_store["spilled"]
    assert nothing_read == 0
    assert made >= 3 * one, "80 MB hold three at most"
    assert made + more <= 6 * one
    assert made <= read <= 6 * one
