"""Addresses nobody listens at and folders too long for sockets are refused before Ray is asked."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

import raysim
from raysim.backends import ray_address, ray_connection
from raysim.backends.ray_address import SOCKET_PATH_BYTES, check_listening, check_socket_paths
from raysim.errors import ConfigError, RunError


@pytest.fixture
def dead() -> str:
    """An address of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not met Ray; starting it is an error."""
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "ray")
    monkeypatch.setattr(ray_connection, "authenticate", lambda *_, **__: pytest.fail("Ray was to be used"))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_an_address_somebody_listens_at_passes(family: socket.AddressFamily):
    host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[family]
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no such loopback here")
    with server:
        port = server.getsockname()[1]
        check_listening("address", f"{host}:{port}" if family == socket.AF_INET else f"[{host}]:{port}")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("head", "must be HOST:PORT"),
        ("head:", "must be HOST:PORT"),
        (":6379", "must be HOST:PORT"),
        ("127.0.0.1:x", "must be HOST:PORT"),
        ("127.0.0.1:70000", "must be HOST:PORT"),
        ("ray://127.0.0.1:10001", "not through Ray Client"),
    ],
)
def test_what_is_no_address_is_refused(address: str, reason: str):
    with pytest.raises(ConfigError, match=reason) as caught:
        check_listening("address", address)
    assert (caught.value.key, caught.value.value) == ("address", address)


def test_a_run_at_a_dead_address_is_refused_naming_where_it_came_from(
    dead: str, unconnected, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ConfigError, match=rf"^address: .*nobody listens there.*{dead}"):
        raysim.run(tiny, out=tmp_path, name="a", address=dead)
    monkeypatch.setenv("RAY_ADDRESS", dead)
    with pytest.raises(ConfigError, match=rf"^RAY_ADDRESS: .*nobody listens there.*{dead}"):
        raysim.run(tiny, out=tmp_path, name="a")
    assert list(tmp_path.iterdir()) == []


def test_auto_is_refused_if_the_cluster_it_means_is_gone(
    dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_address, "_heads_run_here", lambda: False)
    check_listening("address", "auto")  # nothing known: Ray says so at once
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"{dead}\n")
    with pytest.raises(ConfigError, match="nobody listens there"):
        check_listening("address", "auto")
    monkeypatch.setattr(ray_address, "_heads_run_here", lambda: True)
    check_listening("address", "auto")  # Ray finds the one that runs


@pytest.mark.parametrize("key", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_too_deep_for_sockets_is_refused_with_the_remedy(
    key: str, unconnected, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(key, "/tmp/" + "d" * 60)
    with pytest.raises(ConfigError, match=rf"^{key}: .*set RAY_TMPDIR to a shorter one"):
        raysim.run(tiny, out=tmp_path, name="a", address="local")
    assert list(tmp_path.iterdir()) == []


def test_the_longest_folder_fits_its_sockets_exactly():
    session = f"/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    longest = "/" + "d" * (SOCKET_PATH_BYTES - len(session) - 1)
    check_socket_paths({"TMPDIR": longest})
    check_socket_paths({"TMPDIR": longest + "d", "RAY_TMPDIR": "/tmp"})
    check_socket_paths({})
    with pytest.raises(ConfigError, match="TMPDIR"):
        check_socket_paths({"TMPDIR": longest + "d"})
    with pytest.raises(ConfigError, match="TMPDIR"):
        check_socket_paths({"TMPDIR": longest[:-1] + "é"})  # two bytes


@pytest.mark.parametrize("home", ["/nonexistent", "/" + "x" * 300])
def test_a_home_that_cannot_be_read_holds_no_token(home: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "ray")
    environment: dict[str, str] = {}
    ray_connection.authenticate(environment, new_cluster=False)
    assert environment == {"RAY_AUTH_MODE": "disabled"}


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (Exception("The current node timed out during startup."), RunError),
        (RuntimeError("Failed to start the GCS.\nIts log:"), RunError),
        (ValueError("num_cpus: must be positive"), ValueError),
    ],
    ids=["too late", "not started", "another error"],
)
def test_a_machine_on_which_ray_does_not_come_up_is_told_why(
    raised: Exception, told: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    import ray

    def fail(**options: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", fail)
    monkeypatch.setattr(ray_connection, "authenticate", lambda *_, **__: None)
    for name, value in ray_connection.OWN_CLUSTER.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(told) as caught, ray_connection.connected():
        pytest.fail("there is no connection")
    first = str(raised).partition("\n")[0]
    if told is RunError:
        assert str(caught.value).startswith(
            f"Ray did not come up on this machine ({first}): it has too much to do"
        )
    else:
        assert caught.value is raised
