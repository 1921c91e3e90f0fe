"""Processes that are killed at chosen moments of a run on Ray: it ends with the digest of an undisturbed one."""

from __future__ import annotations

import pytest

import raysim

pytestmark = pytest.mark.ray

FAULTY = "tests.faulty_methods"


def results(result):
    return result.digest, (result.path / "clients.parquet").read_bytes()


def mortal(tiny, folder=""):
    """Every part of the run can die; clients 2 and 8, of two hosts, attack in name only."""
    return {
        **tiny,
        "rounds": 4,
        "population": {"clients": 10, "malicious": 2, "placement": [2, 8]},
        "model": {"name": f"{FAULTY}:MortalNet", "folder": folder},
        "attack": {"name": f"{FAULTY}:MortalAttack", "folder": folder},
        "defense": {"name": f"{FAULTY}:MortalDefense", "folder": folder},
        "resources": {"clients_per_actor": 5},
    }


def test_whatever_is_killed_the_result_is_that_of_an_undisturbed_run(ray_cluster, tiny, tmp_path):
    """Round 0: a host that trains. 1: two tasks at once. 2: the server, while it crafts. 3: a host that evaluates."""
    expected = raysim.run(mortal(tiny), name="calm", out=tmp_path, backend="inprocess")
    traps = tmp_path / "traps"
    traps.mkdir()
    for trap in ("train-0", "task-1-a", "task-1-b", "craft-2", "arm-3"):
        (traps / trap).touch()
    result = raysim.run(mortal(tiny, str(traps)), name="mortal", out=tmp_path)
    assert list(traps.iterdir()) == [], "every one was sprung"
    assert results(result) == results(expected)
    spans = [span for span in result.table("spans").to_pylist() if span["retries"]]
    retried = {(span["round"], span["stage"]) for span in spans if span["task"] >= 0}
    assert retried == {(0, "train"), (1, "look"), (3, "evaluate")}
    (restart,) = [span for span in spans if span["stage"] == "restart"]
    assert (restart["round"], restart["task"], restart["retries"]) == (2, -1, 1)
    assert restart["wall_s"] > 0


def test_a_host_that_hangs_in_a_library_is_ended_and_its_clients_are_lost_alone(
    ray_cluster, tiny, tmp_path, monkeypatch
):
    """Python's alarm does not reach it, so the call's own limit ends the process. The call behind it is no attempt."""
    from raysim.backends.capacity import ClientActors
    from raysim.backends.ray_backend import RayBackend

    monkeypatch.setattr("raysim.backends.ray_backend.RETRIES", 0)
    backend = RayBackend(ClientActors(2), workers=2)
    try:
        backend.start_clients(Sleeper, ())
        items, limits = [(0,), (60,), *[(0,)] * 4], [30, 0.5, *[30] * 4]
        answers = backend.call_clients("sleep", "sleep", items, limits_s=limits)
    finally:
        backend.close()
    assert answers == ["awake", None, *["awake"] * 4]
    assert sum(span.retries for span in backend.telemetry.drain()) == 0


class Sleeper:
    def sleep(self, seconds):
        import time

        time.sleep(seconds)
        return "awake"
