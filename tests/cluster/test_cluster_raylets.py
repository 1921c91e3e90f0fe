"""Two Ray nodes on this machine."""

from __future__ import annotations

import os
import stat

import psutil
import pytest

from cluster import bring_up, processes
from raysim.errors import RunError

pytestmark = pytest.mark.ray


def listening(process: psutil.Process) -> set[str]:
    ports = [port for port in process.net_connections() if port.status == psutil.CONN_LISTEN]
    return {port.laddr.ip.removeprefix("::ffff:") for port in ports}


def test_two_raylets(agrees_with_one_process, keepers, nothing_left, monkeypatch):
    with bring_up("raylets", nodes=2, cpus_per_node=1, object_store_bytes=2**27) as cluster:
        (keeper,) = keepers()
        services = [psutil.Process(pid) for pid in processes.members(keeper)]
        services = [process for process in services if process.name() in ("gcs_server", "raylet")]
        assert sorted(process.name() for process in services) == ["gcs_server", "raylet", "raylet"]
        assert [listening(process) for process in services] == [{"127.0.0.1"}] * 3
        assert [process.environ()["RAY_AUTH_MODE"] for process in services] == ["token"] * 3
        assert stat.S_IMODE(os.stat(cluster.environment["RAY_AUTH_TOKEN_PATH"]).st_mode) == 0o600

        agrees_with_one_process(cluster)

        for key in ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.setenv(key, cluster.environment[key])
        with bring_up("address", address=cluster.address, nodes=2) as same:
            assert same.address == same.environment["RAY_ADDRESS"] == cluster.address
        monkeypatch.setenv("RAY_NUM_REDIS_GET_RETRIES", "1")
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with (
            pytest.raises(RunError, match="the token of this process is not that of the cluster"),
            bring_up("address", address=cluster.address, nodes=2),
        ):
            pytest.fail("came up")
    nothing_left(cluster, keeper)
