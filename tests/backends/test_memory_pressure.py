"""Too little memory: workers that Ray's memory monitor kills, and an object store that spills to the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.ray


def said(script, **environment):
    """What a script prints last, as JSON; on a cluster of its own, since these settings are a cluster's."""
    words = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=200
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_workers_killed_for_want_of_memory_are_retried_then_lost_or_named():
    """The threshold lies below what the machine uses already, so every worker is killed, every time."""
    calls, task = said(
        """
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
        """,
        RAY_memory_monitor_refresh_ms="100",
        RAY_memory_usage_threshold="0.01",
    )
    assert calls == [None]
    assert task.startswith("stage nap: task 0: ")
    assert "low on memory" in task
    assert "\n" not in task


def test_what_does_not_fit_the_object_store_is_spilled_and_comes_back():
    """Six results of 24 MB in a store of 80 MB."""
    sums = said(
        """
        import json
        import numpy as np
        from raysim.backends import ray_connection
        from raysim.backends.capacity import ClientActors

        def large(number):
            return np.full(6 * 2**20, number, np.float32), number

        with ray_connection.connected(num_cpus=1, object_store_memory=80 * 2**20):
            from raysim.backends.ray_backend import RayBackend
            backend = RayBackend(ClientActors(0), workers=1)
            kept = backend.map("make", large, [(number,) for number in range(6)], keep=1)
            sums = backend.map("add", lambda array: float(array.sum() / array.size), [made for made, _ in kept])
        print(json.dumps(sums))
        """
    )
    assert sums == [0, 1, 2, 3, 4, 5]
