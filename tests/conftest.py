"""Fixtures that several packages' tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import federations

if TYPE_CHECKING:
    from cluster import Cluster

# Before anything imports Ray: its processes bind to loopback only.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Before anything imports torch: on models this small, a second thread waits for work more than it does any.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SLOW = (
    "tests/studies/",
    "tests/presets/",
    "tests/acceptance/",
    "tests/tutorials/",
    "tests/composition/test_build_once.py",
    "tests/contract/test_contract_needs.py",
    "tests/contract/test_contract_resume.py",
    "tests/cli/test_interrupts.py",
    "tests/backends/test_shipping.py",
    "tests/test_without_ray.py",
)
"""What `make test-fast` leaves out besides Ray: studies, whole runs of every method, processes of their own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts Ray through a shared cluster, and what is slow by its place."""
    for item in items:
        if {"ray_cluster", "two_nodes"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")


def pytest_collection_finish() -> None:
    """What collecting leaves stays; else every full garbage collection would look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def data_root() -> Path:
    """The real data sets; skips where RAYSIM_TEST_DATA does not name them."""
    named = os.environ.get("RAYSIM_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("RAYSIM_TEST_DATA does not name a folder with the real data sets")
    return Path(named)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Nothing that tests write here need survive a loss of power; waiting for the disk is half of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster for all tests that need one: 2 CPUs and one logical GPU."""
    from raysim.backends import ray_connection as ray_cluster

    with ray_cluster.connected(num_cpus=2, num_gpus=1, object_store_memory=2**29):
        yield


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[Cluster]:
    """Two Ray nodes of one CPU and one logical GPU for all tests that need no more: hosts of a network where there may be
    one, else raylets."""
    from cluster import bring_up, namespaces

    kind = "raylets" if namespaces.missing() else "namespaces"
    with bring_up(kind, nodes=2, cpus_per_node=1, gpus_per_node=1, object_store_bytes=2**28) as cluster:
        yield cluster


@pytest.fixture
def shares_two_nodes(two_nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Whoever asks for two nodes is handed the shared ones, and others what they ask for; returns what was asked for."""
    from cluster import clusters

    asked: list[dict[str, Any]] = []
    bring_up = clusters.bring_up

    def share(**options: Any) -> AbstractContextManager[Cluster]:
        asked.append(options)
        return nullcontext(two_nodes) if options["nodes"] == 2 else bring_up(**options)

    monkeypatch.setattr(clusters, "bring_up", share)
    return asked


@pytest.fixture
def joins_ray(ray_cluster: None) -> dict[str, str]:
    """The environment of a process that joins the shared cluster instead of starting one, which takes seconds."""
    import ray

    return {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in a worker: one thread of torch and BLAS, so that sums have one order."""
    from raysim.backends.base import ThreadLimit

    with ThreadLimit(1)():
        yield


@pytest.fixture
def nothing_kept() -> None:
    """Memory that earlier tests freed goes back to the kernel: else what is taken next may come from it, and not show."""
    import ctypes

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The federation of most tests; others: tests/federations.py."""
    return federations.tiny()
