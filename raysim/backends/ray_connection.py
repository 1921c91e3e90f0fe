"""A connection to Ray: a cluster of this machine's own, or one that exists."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from raysim.backends.capacity import Capacity, NodeCapacity
from raysim.backends.ray_address import check_listening, check_socket_paths
from raysim.errors import ConfigError, RunError, unknown_name
from raysim.interruption import terminable_still

RUNTIME_ENV = "resources.runtime_env"

ENDPOINT = ("aiohttp", "opencensus", "opentelemetry", "prometheus_client")
"""What Ray's own extra `default` installs, without which its nodes have no endpoint for Prometheus."""

OWN_CLUSTER = {
    # Without support for several machines, which a cluster of one has no use for, Ray stays on 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Else Ray's control process remembers every task for its state API, and grows by a third in 300 rounds.
    "RAY_task_events_report_interval_ms": "0",
}
"""How a cluster on this machine is set up, unless the environment says otherwise."""


def authenticate(environment: MutableMapping[str, str], *, new_cluster: bool) -> None:
    """Decide Ray's authentication explicitly, before Ray is used.

    A new cluster gets a token of its own in a file only its owner can read. For a cluster that exists the
    mode is `token` where a token is configured, else `disabled`. A mode that is set already is kept.
    """
    if environment.get("RAY_AUTH_MODE"):
        return
    configured = (
        environment.get("RAY_AUTH_TOKEN")
        or environment.get("RAY_AUTH_TOKEN_PATH")
        or os.path.isfile(os.path.expanduser("~/.ray/auth_token"))  # False also where home cannot be read
    )
    if new_cluster and not configured:
        folder = tempfile.mkdtemp(prefix="raysim-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        environment["RAY_AUTH_TOKEN_PATH"] = str(write_token(Path(folder)))
    environment["RAY_AUTH_MODE"] = "token" if new_cluster or configured else "disabled"
    if "ray" in sys.modules:
        # Ray reads the mode when it is imported; this is how its own `ray.init` makes it read it again.
        from ray._raylet import Config  # type: ignore[attr-defined]

        Config.initialize("")


def write_token(folder: Path) -> Path:
    """A new random token in a file of mode 0600."""
    path = folder / "auth_token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


@contextlib.contextmanager
def connected(
    address: str | None = None, runtime_env: Mapping[str, object] | None = None, **options: Any
) -> Iterator[None]:
    """Ray, initialised inside the block: the cluster at `address`, or (None or `local`) a new one on this machine.

    options: more for `ray.init`, of whatever types those have. A process that is connected already keeps its connection,
    and keeps it afterwards. Raises ConfigError within seconds if nobody listens at the address, and before Ray starts
    if its sockets' paths would be too long, or if `runtime_env` is not one of Ray's or comes too late; RunError if Ray's
    processes do not come up in the time that it gives them.
    """
    address = None if address == "local" else address
    if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
        if address is None:
            check_socket_paths(os.environ)
        else:
            key = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "address"
            check_listening(key, address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        for name, value in OWN_CLUSTER.items():
            os.environ.setdefault(name, value)
    authenticate(os.environ, new_cluster=address is None)
    import ray

    if runtime_env:
        check_runtime_env(runtime_env)
    if ray.is_initialized():
        yield
        return
    # "local" always starts a cluster; without it Ray joins whichever it finds running on the machine.
    settings: dict[str, Any] = {
        "address": address or "local",
        "log_to_driver": False,
        "logging_level": "error",
    }
    if runtime_env:
        settings["runtime_env"] = dict(runtime_env)
    if address is None:
        settings["include_dashboard"] = False
        # Ray reads the variable when it is imported, which a program may have done before.
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] != "0"
    try:
        with terminable_still():
            ray.init(**{**settings, **options})
    except ConnectionError as error:
        raise ConfigError("address", f"must be that of a running Ray cluster ({error})", address) from None
    except KeyboardInterrupt:
        ray.shutdown()  # of what has come up
        raise
    except Exception as error:
        # Ray gives its processes a fixed time to come up, and has no class for the error if that is not enough.
        if address is not None or type(error) not in (Exception, RuntimeError):
            raise
        problem = str(error).partition("\n")[0]
        rule = "it has too much to do, or too little memory left; start the run again when it has less to do"
        raise RunError(f"Ray did not come up on this machine ({problem}): {rule}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_runtime_env(wanted: Mapping[str, object]) -> None:
    """ConfigError unless these are keys and values of a runtime environment of Ray, and a connection is still to be made."""
    import ray
    from ray.runtime_env import RuntimeEnv

    known = {name for name in RuntimeEnv.known_fields if not name.startswith("_")}
    for name in wanted:
        if name not in known:
            raise unknown_name(f"{RUNTIME_ENV}.{name}", name, known)
    try:
        RuntimeEnv(**cast("dict[str, Any]", wanted))  # it checks the types itself
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(RUNTIME_ENV, f"must be one that Ray takes: {error}", dict(wanted)) from None
    if ray.is_initialized():
        rule = "must be given when Ray is connected, which it is already: raysim.session(runtime_env=...)"
        raise ConfigError(RUNTIME_ENV, rule, dict(wanted))


def check_metrics() -> None:
    """ConfigError where Ray has no endpoint for Prometheus, because what it needs for that is not installed."""
    if any(find_spec(module) is None for module in ENDPOINT):
        rule = "needs Ray's endpoint for Prometheus on every node: pip install raysim-fl[metrics]"
        raise ConfigError("resources.metrics", rule, True, False)


def what_starts(address: str | None = None) -> str:
    """What `connected` is about to wait for, in words; empty if this process is connected already."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return ""
    return "starting Ray on this machine" if address in (None, "local") else f"joining Ray at {address}"


def capacity() -> Capacity:
    """What the connected cluster has."""
    import ray

    from raysim.backends.ray_nodes import autoscaler_most

    total, most = ray.cluster_resources(), autoscaler_most()
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Capacity(
        cpus=max(1, int(total.get("CPU", 1))),
        gpus=total.get("GPU", 0.0),
        object_store_bytes=int(total.get("object_store_memory", 0)),
        nodes=tuple(NodeCapacity(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive),
        most_cpus=most.get("CPU", 0.0) if most else None,
        most_gpus=most.get("GPU", 0.0) if most else None,
        elsewhere=True,
    )


def nodes() -> list[dict[str, object]]:
    """The cluster's nodes, for environment.json."""
    import ray

    return [
        {
            "node": node["NodeID"][:12],
            "host": node["NodeManagerHostname"],
            "address": node["NodeManagerAddress"],
            "resources": {
                key: value for key, value in node["Resources"].items() if not key.startswith("node:")
            },
        }
        for node in ray.nodes()
        if node["Alive"]
    ]
