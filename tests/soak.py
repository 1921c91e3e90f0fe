"""A long run on Ray whose processes are killed at random, from a seed: `make soak`, minutes on a quiet machine.

    python -m tests.soak --rounds 300 --clients 200 --kill-every-s 4

It must end with the digest and the clients' table of an undisturbed run in one process; no process that lives
long may use 10 % more memory at its end than after round 50; nothing may stay behind: neither processes nor objects.
Prints its figures as JSON; the exit status is 1 where one of the four does not hold.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import raysim
from raysim.backends import ray_connection
from raysim.runs.ray_driver import SERVER_RESTARTS

WORKERS = ("ray::RayActor", "ray::run_task")
SETTLED_ROUND = 50
GROWTH = 1.10
SAMPLES = 10
"""A process is judged by the medians of its first and last so many samples, a second apart, once it has four times as many."""


@dataclass
class Disturber:
    """Kills workers, and now and then the server, at times drawn from a seed; watches every process's memory."""

    seed: int
    kill_every_s: float
    settled_round: int
    round: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    memory: dict[tuple[int, str], list[float]] = field(default_factory=dict)
    seen: set[psutil.Process] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self, event: raysim.Progress) -> None:
        """What the run is told to report to."""
        if event.row:
            self.round = event.round

    def disturb(self) -> None:
        """Until `over`: kill now and then."""
        draw = np.random.default_rng(self.seed)
        while not self.over.wait(draw.exponential(self.kill_every_s)):
            may_end_server = self.kills.get("ray::Server", 0) < SERVER_RESTARTS
            wanted = ("ray::Server",) if may_end_server and draw.random() < 0.05 else WORKERS
            found = sorted((p for p in self._processes() if _kind(p).startswith(wanted)), key=lambda p: p.pid)
            for victim in draw.permutation(len(found))[: 1 + draw.integers(2)]:
                kind = _kind(found[victim])
                try:
                    os.kill(found[victim].pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.kills[kind] = self.kills.get(kind, 0) + 1

    def watch(self) -> None:
        """Until `over`: note what memory every process has of its own, once a second."""
        while not self.over.wait(1):
            for process in self._processes():
                try:
                    used = process.memory_full_info().uss
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                if self.round >= self.settled_round:
                    self.memory.setdefault((process.pid, _kind(process)), []).append(used)

    def growth(self) -> dict[str, float]:
        """Kind of process and its number -> memory at the end by that at the beginning, of those that lived long."""
        return {
            f"{kind} {pid}": float(np.median(used[-SAMPLES:]) / np.median(used[:SAMPLES]))
            for (pid, kind), used in self.memory.items()
            if len(used) >= 4 * SAMPLES
        }

    def _processes(self) -> list[psutil.Process]:
        children = psutil.Process().children(recursive=True)
        self.seen.update(children)
        return [psutil.Process(), *children]


def _kind(process: psutil.Process) -> str:
    """What Ray calls a worker at work; the program's name otherwise."""
    try:
        return (process.cmdline() or [process.name()])[0].split("/")[-1].partition(".")[0].partition(" ")[0]
    except psutil.NoSuchProcess:
        return ""


def configuration(rounds: int, clients: int) -> dict[str, Any]:
    """Ten digits to a client, a colluding attack with a memory of its own, a stateful defense."""
    return {
        "rounds": rounds,
        "population": {"clients": clients, "malicious": 0.1},
        "data": {"name": "synthetic", "shape": [1, 8, 8], "train_size": 12 * clients, "test_size": 200},
        "model": {"name": "digits_cnn", "width": 0.5},
        "attack": {"name": "alie"},
        "defense": "foolsgold",
        "server_data": {"samples": 20},
        "evaluation": {"every": 10},
        "checkpoint": {"every": 5},
        "resources": {"clients_per_actor": max(1, clients // 4)},
    }


def soak(
    rounds: int, clients: int, kill_every_s: float, seed: int, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """The figures, and what does not hold."""
    config = configuration(rounds, clients)
    calm = raysim.run(config, name="calm", out=out, backend="inprocess")
    disturber = Disturber(seed, kill_every_s, min(SETTLED_ROUND, rounds // 4))
    began = time.monotonic()
    with ray_connection.connected(num_cpus=2, object_store_memory=2**29):
        import ray

        threads = [threading.Thread(target=work) for work in (disturber.disturb, disturber.watch)]
        for thread in threads:
            thread.start()
        try:
            result = raysim.run(config, name="disturbed", out=out, observe=disturber)
        finally:
            disturber.over.set()
            for thread in threads:
                thread.join()
        gc.collect()
        kept = _objects_left(ray)
    orphans = [p for p in psutil.wait_procs(list(disturber.seen), timeout=30)[1] if p.is_running()]
    spans = result.table("spans").to_pylist()
    growth = disturber.growth()
    figures = {
        "rounds": rounds,
        "clients": clients,
        "seed": seed,
        "wall_s": round(time.monotonic() - began, 1),
        "kills": dict(sorted(disturber.kills.items())),
        "retries in spans": sum(span["retries"] for span in spans if span["task"] >= 0),
        "restarts in spans": sum(span["stage"] == "restart" for span in spans),
        "largest growth of memory": round(max(growth.values(), default=float("nan")), 3),
        "processes judged": {name: round(by, 3) for name, by in sorted(growth.items())},
        "digest": result.digest,
    }
    tables = [(run.path / "clients.parquet").read_bytes() for run in (calm, result)]
    broken = {
        "the digest is not that of an undisturbed run": result.digest != calm.digest
        or tables[0] != tables[1],
        "nothing was killed": not disturber.kills,
        f"no process lived for the {4 * SAMPLES} s after round {disturber.settled_round} that its memory is judged by": not growth,
        f"memory grew by more than 10 %: {growth}": any(by > GROWTH for by in growth.values()),
        f"bytes of objects stayed behind: {kept}": kept > 0,
        f"processes stayed behind: {orphans}": bool(orphans),
    }
    return figures, [problem for problem, holds in broken.items() if holds]


def _objects_left(ray: Any) -> float:
    """Bytes of the object store in use once the run is over; Ray frees and reports with some delay."""
    left = 0.0
    for _ in range(60):
        left = ray.cluster_resources()["object_store_memory"] - ray.available_resources().get(
            "object_store_memory", 0
        )
        if not left:
            break
        time.sleep(0.5)
    return float(left)


def main() -> int:
    """Run it as the command line asks; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--kill-every-s", type=float, default=4.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, broken = soak(asked.rounds, asked.clients, asked.kill_every_s, asked.seed, Path(folder))
    print(json.dumps(figures, indent=1))
    for problem in broken:
        print(f"does not hold: {problem}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
