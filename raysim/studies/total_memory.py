"""Memory of a process and everything it started, sampled while something runs."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil


class TotalMemory:
    """Samples the proportional set size (shared pages counted once) of this process and its descendants.

    `with TotalMemory() as watch: ...`, then `watch.peak_bytes` is the largest total seen.
    """

    def __init__(self, interval_s: float = 0.2) -> None:
        self.interval_s = interval_s
        self.peak_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> TotalMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        over = False
        while not over:
            self.peak_bytes = max(self.peak_bytes, total_pss())
            over = self._over.wait(self.interval_s)


def total_pss() -> int:
    """Bytes of this process and its descendants now; processes that end meanwhile count nothing."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total
