"""Uneven workers: each on a core of its own, and beside the first one a neighbour that computes all the time."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

BUSY = """
import os, sys
core, priority, parent = map(int, sys.argv[1:])
os.sched_setaffinity(0, {core})
os.setpriority(os.PRIO_PROCESS, 0, priority)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


@contextmanager
def busy_neighbour(processes: Sequence[int]) -> Iterator[None]:
    """While the block runs, the first of these has half a core; all are bound to one each, also their threads to come.

    RuntimeError where there are fewer cores than processes. Linux only.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < len(processes):
        raise RuntimeError(f"{len(processes)} workers need as many cores; there are {len(cores)}")
    for core, process in zip(cores, processes, strict=False):
        for thread in os.listdir(f"/proc/{process}/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), {core})
    priority = os.getpriority(os.PRIO_PROCESS, processes[0])
    words = [sys.executable, "-c", BUSY, str(cores[0]), str(priority), str(os.getpid())]
    neighbour = subprocess.Popen(words)
    try:
        yield
    finally:
        neighbour.kill()
        neighbour.wait()
