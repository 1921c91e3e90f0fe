"""How much memory this process and its Ray workers hold while something runs, sampled from outside of the work."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PAUSE_S = 0.002
"""Between two looks at all processes."""


@dataclass(frozen=True)
class Resident:
    """Bytes of one process: all resident memory, and the private part (without the object store's pages)."""

    whole: int
    private: int


@dataclass
class MemoryWatch:
    """Samples in a thread while a `with` block runs.

    peak: the largest resident memory of any one process, what libraries and every tile it ever mapped take included.
    growth: the most that any one process's private memory grew over what it held when the block began.
    """

    peak: int = 0
    growth: int = 0
    _before: dict[int, Resident] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> MemoryWatch:
        processes = own_processes()
        self._before = {pid: found for pid in processes if (found := resident(pid))}
        self._look()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(PAUSE_S):
            self._look()

    def _look(self) -> None:
        for pid, before in self._before.items():
            now = resident(pid)
            if now is not None:
                self.peak = max(self.peak, now.whole)
                self.growth = max(self.growth, now.private - before.private)


def own_processes() -> list[int]:
    """This process and the Ray workers it started."""
    this = psutil.Process()
    workers = [child.pid for child in this.children(recursive=True) if _is_worker(child)]
    return [this.pid, *workers]


def resident(pid: int) -> Resident | None:
    """What a process holds now; None when it is gone, or where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "RssShmem")))
    if len(found) < 2:
        return None
    whole, shared = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "RssShmem"))
    return Resident(whole, whole - shared)


def _is_worker(process: psutil.Process) -> bool:
    try:
        works: bool = process.name().startswith("ray::")
        return works
    except psutil.Error:
        return False
