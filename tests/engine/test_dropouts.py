"""Clients that hang, raise or answer what no server can use are recorded dropouts; a quorum decides on the round."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

import raysim
from raysim.engine.time_limit import OutOfTime, time_limit
from raysim.errors import ConfigError, RunError
from raysim.report.finished_run import read_columns
from raysim.report.remarks import of_run

FAULTY = "tests.faulty_methods"


def run(tiny, tmp_path, name="run", **changes):
    config = {**tiny, "rounds": 1, "defense": "fedavg", **changes}
    return raysim.run(config, name=name, out=tmp_path, backend="inprocess")


def reasons(result):
    return {row["client"]: row["reason"] for row in result.table("clients").to_pylist() if row["reason"]}


@pytest.mark.parametrize("swallow", [False, True])
def test_a_client_that_hangs_is_a_dropout(tiny, tmp_path, monkeypatch, swallow):
    monkeypatch.setattr("raysim.engine.time_limit.AGAIN_S", 0.1)
    attack = {"name": f"{FAULTY}:Hang", "swallow": swallow, "clients": [9]}
    result = run(tiny, tmp_path, attack=attack, resources={"client_timeout_s": 0.2})
    assert reasons(result) == {9: "timed out after 0.2 s"}
    assert json.loads(result.rounds[0]["notes"])["rejected"] == {"timed out after 0.2 s": 1}
    assert "1 of 10 uploads rejected by the engine: timed out after 0.2 s" in " ".join(
        of_run(read_columns(result.path, "rounds"))
    )
    assert np.isfinite(result.global_vector).all()


def test_a_client_in_time_is_not_touched(tiny, tmp_path):
    plain = run(tiny, tmp_path, "plain", defense=tiny["defense"])
    limited = run(tiny, tmp_path, "limited", defense=tiny["defense"], resources={"client_timeout_s": 60})
    assert plain.digest == limited.digest


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (
            {"name": f"{FAULTY}:BadUpload", "what": "raise"},
            "raised ZeroDivisionError: in the attack's own code",
        ),
        ({"name": f"{FAULTY}:PoisonRaises"}, "raised ValueError: no such trigger"),
    ],
)
@pytest.mark.parametrize("stack", [1, 4])
def test_a_client_that_raises_stops_the_run_or_drops_out_as_asked(tiny, tmp_path, attack, reason, stack):
    training = {"clients_per_stack": stack}
    with pytest.raises(RunError, match=reason.removeprefix("raised ")):
        run(tiny, tmp_path, "stop", attack=attack, training=training)
    population = {**tiny["population"], "on_client_error": "drop"}
    result = run(tiny, tmp_path, attack=attack, population=population, training=training)
    assert reasons(result) == {8: reason, 9: reason}
    weights = [row["weight"] for row in result.table("clients").to_pylist()]
    assert (np.array(weights[:8]) > 0).all()
    assert weights[8:] == [0, 0]


@pytest.mark.parametrize("least", [8, 9])
def test_a_quorum_decides_whether_a_round_counts(tiny, tmp_path, least):
    """Eight of ten uploads can be used."""
    attack = {"name": f"{FAULTY}:BadUpload", "schedule": {"start": 1}}
    population = {**tiny["population"], "min_cohort": least}
    result = run(
        tiny, tmp_path, rounds=2, attack=attack, population=population, checkpoint={"every": 1, "keep": 2}
    )
    first, last = (
        raysim.runs.checkpoint.load(path)["global_vector"]
        for path in sorted((result.path / "checkpoints").iterdir())
    )
    counts = least == 8
    assert (first.tobytes() != last.tobytes()) == counts
    too_few = "no quorum: 8 usable uploads, population.min_cohort is 9"
    assert reasons(result) == {
        **({} if counts else dict.fromkeys(range(8), too_few)),
        8: "non-finite",
        9: "non-finite",
    }
    assert result.rounds[1]["accepted"] == (8 if counts else 0)
    assert np.isnan(result.rounds[1]["recall"]) != counts


def test_a_quorum_beyond_the_cohort_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"^population.min_cohort: must not exceed the cohort of 5; received 6; nearest valid: 5",
    ):
        raysim.ExperimentConfig(population={"clients": 10, "cohort": 5, "min_cohort": 6})


def test_the_limit_takes_the_main_thread_and_leaves_no_alarm():
    with pytest.raises(OutOfTime), time_limit(0.01):
        threading.Event().wait(5)
    with time_limit(0.01):
        pass
    threading.Event().wait(0.05)
    found = []

    def elsewhere():
        try:
            with time_limit(1):
                raise AssertionError("not reached")
        except ConfigError as error:
            found.append(error.key)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == ["resources.client_timeout_s"]
