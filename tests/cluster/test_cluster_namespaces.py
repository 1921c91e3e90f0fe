"""Two hosts on this machine."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import raysim
from cluster import bring_up, namespaces
from raysim.errors import RunError
from raysim.runs.result import RunResult

LACK = namespaces.missing()

pytestmark = [
    pytest.mark.namespaces,
    pytest.mark.skipif(LACK is not None, reason=f"network namespaces need {LACK}"),
]


def made() -> set[str]:
    """The namespaces of raysim's that there are."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in listed.splitlines() if line.startswith("raysim-")}


def said(words) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def two_hosts(keepers, nothing_left):
    """Notices within seconds that a host is gone. The last test kills one; nothing is left of either afterwards."""
    before, outside = made(), said(["ip", "-brief", "address"])
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("period_ms", 500), ("timeout_ms", 1000), ("failure_threshold", 3)):
            patch.setenv(f"RAY_health_check_{name}", str(value))
        with bring_up(
            "namespaces", nodes=2, cpus_per_node=1, object_store_bytes=2**27, bandwidth="2gbit"
        ) as cluster:
            (keeper,) = keepers()
            assert len(made() - before) == 3
            assert said(["ip", "-brief", "address"]) == outside
            yield cluster
    nothing_left(cluster, keeper)
    assert made() == before


@pytest.mark.ray
def test_links_have_their_rate_and_a_stranger_is_refused(two_hosts):
    """What runs there has the same bytes as in one process: tests/backends/test_placement.py."""
    assert "rate 2Gbit" in said(two_hosts.command(["tc", "qdisc", "show", "dev", "eth0"]))
    join = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={two_hosts.address}"]
    stranger = {
        **two_hosts.environment,
        "RAY_AUTH_TOKEN": "another cluster's",
        "RAY_NUM_REDIS_GET_RETRIES": "1",
    }
    refused = subprocess.run(
        two_hosts.command(join), env=stranger, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0
    assert "InvalidAuthToken" in refused.stderr


def test_the_limit_is_on_both_ends_of_every_link():
    before = made()
    with namespaces.network(2, "100mbit") as hosts:
        (bridge,) = made() - before - set(hosts)
        for namespace, device in (
            (hosts[0], "eth0"),
            (hosts[1], "eth0"),
            (bridge, "port0"),
            (bridge, "port1"),
        ):
            shown = said(["tc", "-n", namespace, "qdisc", "show", "dev", device])
            assert "qdisc tbf" in shown
            assert "rate 100Mbit" in shown
        knock = "import socket; print(socket.socket().connect_ex(('10.89.0.1', 9)))"
        answer = said([*namespaces.inside(hosts[1]), sys.executable, "-c", knock])
        assert int(answer) == errno.ECONNREFUSED, "the other host is there, and nothing listens"
    assert made() == before


def test_what_was_made_goes_when_it_cannot_be_finished(keepers):
    before, earlier = made(), keepers()
    with (
        pytest.raises(RunError, match=r"2 nodes of kind namespaces did not come up: RuntimeError: tc "),
        bring_up("namespaces", nodes=2, bandwidth="0bit"),
    ):
        pytest.fail("came up")
    assert made() == before
    assert keepers() == earlier


SAYS_WHEN_A_ROUND_ENDED = """
import json, sys
from pathlib import Path
import raysim

config, out, ended = json.loads(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
raysim.run(config, name="disturbed", out=out, observe=lambda event: event.row and ended.touch())
"""


@pytest.mark.ray
def test_a_host_whose_link_goes_down_before_it_dies(two_hosts, tiny, tmp_path):
    """Nothing says goodbye: neither a closed connection nor an answer. Ray's health checks find out.

    Round 1 does not end before the host is gone: its defense waits for a file.
    """
    script, ended, gone = (tmp_path / name for name in ("driver.py", "ended", "gone"))
    script.write_text(SAYS_WHEN_A_ROUND_ENDED)
    defense = {"name": "tests.faulty_methods:WaitForFile", "file": str(gone), "round": 1}
    config = {**tiny, "rounds": 3, "resources": {"placement": "spread"}, "defense": defense}
    gone.touch()
    expected = raysim.run(config, name="calm", out=tmp_path, backend="inprocess")
    gone.unlink()
    words = [sys.executable, str(script), json.dumps(config), str(tmp_path), str(ended)]
    network = two_hosts.inside[-1].removesuffix("-0")
    with subprocess.Popen(two_hosts.command(words), env=two_hosts.environment) as driver:
        while not ended.exists():
            assert driver.poll() is None
            time.sleep(0.1)
        said(["ip", "-n", network, "link", "set", "port1", "down"])
        for pid in said(["ip", "netns", "pids", f"{network}-1"]).split():
            os.kill(int(pid), signal.SIGKILL)
        gone.touch()
        assert driver.wait() == 0
    result = RunResult(tmp_path / "disturbed")
    assert result.digest == expected.digest
    assert (result.path / "clients.parquet").read_bytes() == (expected.path / "clients.parquet").read_bytes()
    spans = [span for span in result.table("spans").to_pylist() if span["task"] >= 0]
    used = [{span["node"] for span in spans if span["round"] == number} for number in range(3)]
    assert [len(nodes) for nodes in (used[0], used[2])] == [2, 1]
