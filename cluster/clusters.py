"""Bring a Ray cluster up for the length of a block, whatever it is made of."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import namespaces, processes
from cluster.plan import KINDS, ClusterPlan, make_plan
from raysim.errors import ConfigError, RunError
from raysim.interruption import Terminated
from raysim.trees import Tree

__all__ = ["KINDS", "WORKER_ENVIRONMENT", "Cluster", "bring_up"]

WORKER_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What every node and driver is started with, here and in the templates; resources.threads sets the threads of
a run's workers from there."""

START_LIMIT_S = 120
END_LIMIT_S = 30


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up: its address, the environment a driver needs, and where a driver has to run."""

    address: str
    environment: dict[str, str]
    inside: tuple[str, ...] = ()
    """Words before a command that take it to the head's host: in its network namespace, or none."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The command that runs `words` on the head's host; give it `environment`."""
        return [*self.inside, *words]

    def run(self, words: Sequence[str]) -> int:
        """Run a driver to its end; its exit status. Ctrl-C and SIGTERM are the driver's to answer."""
        with subprocess.Popen(self.command(words), env=self.environment) as driver:
            while True:
                try:
                    return driver.wait()
                except Terminated:
                    driver.terminate()
                except KeyboardInterrupt:
                    continue  # the terminal has sent it to the driver, too


@contextlib.contextmanager
def bring_up(
    kind: str,
    *,
    nodes: int = 1,
    cpus_per_node: int | None = None,
    gpus_per_node: int = 0,
    object_store_bytes: int | None = None,
    bandwidth: str | None = None,
    address: str | None = None,
) -> Iterator[Cluster]:
    """A cluster of one of the KINDS, up inside the block and gone after it.

    kind: `local` and `raylets` listen on loopback only; `namespaces` are hosts with links of their own, limited
    to `bandwidth` (`100mbit`) in each direction; `address` is the cluster at `address`, as soon as it has that many
    nodes; it is left as it is.
    cpus_per_node: default: an equal part of this machine's. gpus_per_node: whole GPUs, node after node.
    object_store_bytes: of each node; default: an equal part of what this machine can give.

    New clusters demand a token of their own, which `Cluster.environment` points at. Ray reads it once per
    process, so drivers are child processes: `cluster.run([...])`. A process of the cluster's own keeps the nodes
    and takes them down when the block ends or this process dies, however it dies.

    Raises ConfigError for a request that cannot be met, RunError when nodes do not come up.
    """
    if (kind == "address") != (address is not None):
        raise ConfigError("address", "must be given with kind address, and only there", address)
    plan = make_plan(kind, nodes, cpus_per_node, gpus_per_node, object_store_bytes, bandwidth)
    if address is not None:
        yield _existing(address, nodes)
        return
    if kind == "namespaces":
        namespaces.require()
    # Imported here: this module is part of `raysim --help`, and composition comes with torch.
    from raysim.backends.ray_connection import write_token

    folder = Path(tempfile.mkdtemp(prefix="raysim-"))
    try:
        environment = _environment(write_token(folder))
        # Unless this is 0, Ray replaces a loopback address by an outer one, and listens on every interface.
        environment["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1" if kind == "namespaces" else "0"
        keeper = subprocess.Popen(
            [sys.executable, "-m", "cluster.keeper", plan.to_json(), str(folder)],
            env={**environment, "RAY_TMPDIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        try:
            up = _first_words(keeper, plan)
            environment["RAY_ADDRESS"] = up["address"]
            yield Cluster(up["address"], environment, tuple(up["inside"]))
        finally:
            _dismiss(keeper)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _environment(token: Path) -> dict[str, str]:
    """This process's environment with the token, threads left as they are set, and raysim's commands in reach."""
    ours = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    ours["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    other = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_TMPDIR")
    inherited = {key: value for key, value in os.environ.items() if key not in other}
    return {**WORKER_ENVIRONMENT, **inherited, **ours}


def _existing(address: str, nodes: int) -> Cluster:
    """Connect to the cluster at `address` once it has that many nodes."""
    from raysim.backends.ray_connection import authenticate

    environment = {**WORKER_ENVIRONMENT, "RAY_AUTH_MODE": "", **os.environ}
    authenticate(environment, new_cluster=False)
    waiting = [sys.executable, "-m", "cluster.waiting", address, str(nodes)]
    try:
        done = subprocess.run(
            waiting, env=environment, capture_output=True, text=True, timeout=START_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise RunError(f"the cluster at {address} had no {nodes} nodes in {START_LIMIT_S} s") from None
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        if "InvalidAuthToken" in done.stderr:
            problem = "the token of this process is not that of the cluster (see RAY_AUTH_TOKEN_PATH)"
        raise RunError(f"no connection to the cluster at {address}: {problem}")
    found = done.stdout.split()[-1]
    return Cluster(found, {**environment, "RAY_ADDRESS": found})


def _first_words(keeper: subprocess.Popen[str], plan: ClusterPlan) -> Tree:
    """Where the cluster is, once it is up."""
    assert keeper.stdout is not None, "it is a pipe"
    ready, _, _ = select.select([keeper.stdout], [], [], START_LIMIT_S)
    line = keeper.stdout.readline() if ready else ""
    if not line:
        problem = "the process that starts them ended" if ready else f"not in {START_LIMIT_S} s"
        raise RunError(f"{plan.nodes} nodes of kind {plan.kind} did not come up: {problem}")
    up: Tree = json.loads(line)
    if "error" in up:
        raise RunError(f"{plan.nodes} nodes of kind {plan.kind} did not come up: {up['error']}")
    return up


def _dismiss(keeper: subprocess.Popen[str]) -> None:
    """Let the keeper take everything down, whatever interrupts, and make sure of its processes."""
    assert keeper.stdin is not None, "it is a pipe"
    assert keeper.stdout is not None, "it is a pipe"
    keeper.stdin.close()
    deadline = time.monotonic() + END_LIMIT_S
    while keeper.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(KeyboardInterrupt, subprocess.TimeoutExpired):
            keeper.wait(1.0)
    processes.end_session(keeper.pid)
    keeper.wait()
    keeper.stdout.close()
