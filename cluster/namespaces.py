"""Several hosts on this machine: network namespaces, each with a Ray node, on one bridge.

    raysim-KEY-0           raysim-KEY-1           ...
    eth0 10.89.0.1         eth0 10.89.0.2
        |                      |                  veth pairs, each end limited to the bandwidth
      port0                  port1
        +------- bridge -------+                  raysim-KEY

The bridge lies in a namespace of its own: the machine's own network gets no interface, no address and no route, and
deleting the namespaces deletes everything. So a driver cannot reach the nodes from outside; it runs on the head's
host, raysim-KEY-0.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster import processes
from cluster.plan import ClusterPlan, bits_a_second
from raysim.errors import ConfigError

PORT = 6379
BURST_S = 0.004
"""A link passes at once what its rate carries in this time: a few ticks of the kernel's clock."""
LEAST_BURST = 256 * 1024
"""Bytes: a few of the 64 KiB segments that the kernel hands to a veth."""
QUEUE_S = 0.05
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


def missing() -> str | None:
    """What this process lacks for making network namespaces, or None."""
    tools = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if tools:
        return f"iproute2: no command {' or '.join(tools)} in PATH"
    status = Path("/proc/self/status").read_text().split()
    held = int(status[status.index("CapEff:") + 1], 16)
    lacking = [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]
    return f"root: the process has no {' or '.join(lacking)}" if lacking else None


def require() -> None:
    """ConfigError if network namespaces cannot be made."""
    if lack := missing():
        raise ConfigError("kind", f"namespaces needs {lack}", "namespaces", "raylets")


def inside(namespace: str) -> tuple[str, ...]:
    """The words before a command that run it in a network namespace."""
    return "ip", "netns", "exec", namespace


@contextmanager
def started(plan: ClusterPlan, folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(The head's address, the words that take a driver to the head's host.)"""
    with network(plan.nodes, plan.bandwidth) as hosts:
        try:
            _start_nodes(plan, folder, hosts)
            yield f"{_address(0)}:{PORT}", inside(hosts[0])
        finally:
            processes.end_session(os.getpid())


@contextmanager
def network(hosts: int, bandwidth: str | None) -> Iterator[list[str]]:
    """The namespaces of this many hosts, joined by a bridge; gone after the block."""
    bridge = f"raysim-{secrets.token_hex(3)}"
    names = [f"{bridge}-{number}" for number in range(hosts)]
    with ExitStack() as made:
        for name in (bridge, *names):
            _run("ip", "netns", "add", name)
            made.callback(_run, "ip", "netns", "delete", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "bridge", "up")
        for number, name in enumerate(names):
            port = f"port{number}"
            _run(*f"ip -n {bridge} link add {port} type veth peer name eth0 netns {name}".split())
            _run(*f"ip -n {bridge} link set {port} master bridge up".split())
            _run(*f"ip -n {name} address add {_address(number)}/24 dev eth0".split())
            _run(*f"ip -n {name} link set eth0 up".split())
            if bandwidth is not None:
                for end, device in ((bridge, port), (name, "eth0")):
                    _run(*f"tc -n {end} qdisc add dev {device} root tbf".split(), *token_bucket(bandwidth))
        yield names


def token_bucket(bandwidth: str) -> list[str]:
    """The parameters of tc-tbf(8) for a rate such as `100mbit`."""
    burst = max(LEAST_BURST, int(bits_a_second(bandwidth) / 8 * BURST_S))
    return ["rate", bandwidth, "burst", f"{burst}b", "latency", f"{QUEUE_S * 1000:g}ms"]


def _start_nodes(plan: ClusterPlan, folder: Path, hosts: list[str]) -> None:
    """The head, then all other nodes at once. Raises RuntimeError with Ray's last words."""

    def start(number: int, *words: str) -> subprocess.Popen[str]:
        mine = folder / str(number)
        mine.mkdir()
        command = [*inside(hosts[number]), sys.executable, "-m", "ray.scripts.scripts", "start", *words]
        command += [f"--node-ip-address={_address(number)}", f"--temp-dir={mine}", "--disable-usage-stats"]
        command += [f"--num-cpus={plan.cpus}", f"--num-gpus={plan.gpus}", "--include-log-monitor=false"]
        command += [f"--memory={plan.memory_bytes}", f"--object-store-memory={plan.object_store_bytes}"]
        return subprocess.Popen(
            command,
            env={**os.environ, **plan.devices(number)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait(number: int, process: subprocess.Popen[str]) -> None:
        said, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"ray start on host {number}: {' '.join(said.split()[-60:])}")

    wait(0, start(0, "--head", f"--port={PORT}", "--include-dashboard=false"))
    joining = [start(number, f"--address={_address(0)}:{PORT}") for number in range(1, len(hosts))]
    for number, process in enumerate(joining, start=1):
        wait(number, process)


def _address(host: int) -> str:
    return f"10.89.0.{host + 1}"


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
