"""Whether Ray can start or be reached, found out before Ray is asked: it waits for minutes, or fails in its own words."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import psutil

from raysim.errors import ConfigError

ANSWERS_WITHIN_S = 5.0
"""How long an address may take to accept a connection."""

SOCKET_PATH_BYTES = 107
"""What Linux allows the path of a socket."""


def check_listening(key: str, address: str) -> None:
    """ConfigError, naming `key`, unless something accepts connections at `address`: HOST:PORT, or `auto`.

    `auto` is left to Ray, unless the cluster that was last started on this machine is gone.
    """
    if address == "auto":
        left_behind = "" if _heads_run_here() else _last_started()
        if not left_behind:
            return
        address = left_behind
    rule = "must be HOST:PORT of a running Ray cluster's head node, auto or local"
    if address.startswith("ray://"):
        raise ConfigError(key, f"{rule}; a run drives the cluster itself, not through Ray Client", address)
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(key, rule, address)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS_WITHIN_S).close()
    except OSError as error:
        reason = "nothing answers" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise ConfigError(key, f"{rule}, and nobody listens there ({reason})", address) from None


def check_socket_paths(environment: Mapping[str, str]) -> None:
    """ConfigError if a new cluster's sockets, which Ray makes below RAY_TMPDIR or TMPDIR, would have too long a path."""
    key = "RAY_TMPDIR" if environment.get("RAY_TMPDIR") else "TMPDIR"
    folder = environment.get(key) or "/tmp"
    below = f"/ray/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    most = SOCKET_PATH_BYTES - len(below)
    if len(os.fsencode(folder)) > most:
        rule = f"must be a path of at most {most} bytes, for Ray's sockets lie below it: set RAY_TMPDIR to a shorter one"
        raise ConfigError(key, rule, folder, "/tmp")


def _heads_run_here() -> bool:
    """Whether a cluster's head runs on this machine: what `auto` looks for first."""
    return any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"]))


def _last_started() -> str:
    """The address that `ray start` left for `auto`; "" if there is none."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        with open(os.path.join(folder, "ray", "ray_current_cluster")) as file:
            return file.read().strip()
    except OSError:
        return ""
