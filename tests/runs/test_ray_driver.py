"""What is wrong every time is said once: nothing deterministic is tried again as if it had been a crash."""

from __future__ import annotations

import pytest

import raysim
from raysim import ConfigError, DataError, RunError

FAILURES = {
    "raise": r"^round 0, stage judge: Fails: ArithmeticError: the same every time$",
    "exit": r"^round 0, stage judge: Fails: SystemExit: no reason$",
    "task": r"^round 0, stage leaves: SystemExit: no reason$",
}


def run(config, path, backend, **changes):
    """On one actor: every process that imports torch costs seconds."""
    resources = {"clients_per_actor": 10}
    return raysim.run({**config, "resources": resources, **changes}, name="run", out=path, backend=backend)


@pytest.mark.parametrize(
    ("backend", "how"),
    [
        *(("inprocess", how) for how in FAILURES),
        *(pytest.param("ray", how, marks=pytest.mark.ray) for how in ("exit", "task")),
    ],
)
def test_an_error_of_a_defense_is_raised_at_once(tiny, tmp_path, request, backend, how):
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    calls = tmp_path / "calls"
    defense = {"name": "tests.faulty_methods:Fails", "calls": str(calls), "how": how}
    with pytest.raises(RunError, match=FAILURES[how]):
        run(tiny, tmp_path, backend, defense=defense)
    assert calls.read_text().splitlines() == [how]


@pytest.mark.ray
def test_a_server_that_cannot_start_is_not_started_again(ray_cluster, tiny, tmp_path):
    """Here the defense fails where the server's process takes it in."""
    calls = tmp_path / "calls"
    defense = {"name": "tests.faulty_methods:Fails", "calls": str(calls), "how": "arrival"}
    with pytest.raises(
        RunError, match=r"^the Server actor could not start: ArithmeticError: the same every time$"
    ):
        run(tiny, tmp_path, "ray", defense=defense)
    assert calls.read_text().splitlines() == ["arrival"]


@pytest.mark.parametrize("backend", ["inprocess", pytest.param("ray", marks=pytest.mark.ray)])
def test_an_exit_in_a_client_is_an_error_that_names_it(tiny, tmp_path, request, backend):
    if backend == "ray":
        request.getfixturevalue("ray_cluster")
    calls = tmp_path / "calls"
    attack = {"name": "tests.faulty_methods:LeavesWhileTraining", "calls": str(calls), "clients": [9]}
    with pytest.raises(RunError, match=r"^round 0, stage train, client 9: SystemExit: 3$"):
        run(tiny, tmp_path, backend, attack=attack)
    assert calls.read_text().splitlines() == ["train"]


@pytest.fixture
def no_ray(monkeypatch):
    """Fails the test that starts or joins Ray."""

    def started(*arguments, **options):
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr("ray.init", started)
    monkeypatch.setattr("raysim.backends.ray_connection.connected", started)


@pytest.mark.parametrize("where", ["make", "check", "remarks", "assume"])
def test_a_defense_that_fails_before_the_run_is_refused(no_ray, tiny, tmp_path, where):
    defense = {"name": "tests.faulty_methods:FailsBefore", "where": where}
    with pytest.raises(ConfigError, match=r"^defense\.name: .*ZeroDivisionError: in the method's own code"):
        run(tiny, tmp_path, "ray", defense=defense)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", "mnist", "gtsrb", "celeba"])
def test_missing_data_is_found_before_ray_starts_and_may_be_fetched(no_ray, tiny, tmp_path, name):
    missing = {"name": name, "root": str(tmp_path / "data")}
    with pytest.raises(DataError, match=rf"{name}(.|\n)*data\.download=true"):
        run(tiny, tmp_path, "ray", data=missing)
    assert not (tmp_path / "run").exists()
