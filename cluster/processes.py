"""The processes of one session: what a keeper started, and what that started in turn."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def members(session: int) -> list[int]:
    """The ids of the processes that live in a session. Ray's workers leave their process group, not that."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                # proc(5): "pid (name) state parent group session ...", and a name may hold anything
                state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(of) == session and state not in "ZX":
                    found.append(int(folder.name))
    return sorted(found)


def end_session(session: int, limit_s: float = 10.0) -> None:
    """Kill the members of a session, this process excepted, until none is left.

    Nothing of a cluster needs a gentler end: its drivers are done, its logs and objects go with its folder.
    """
    deadline = time.monotonic() + limit_s
    while (left := [pid for pid in members(session) if pid != os.getpid()]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
