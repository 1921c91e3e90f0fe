"""`raysim bench gpu`, rehearsed on the CPU: what it compares, what it finds, and when it fails."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from raysim.backends import devices
from raysim.cli.main import app
from raysim.defense import Defense, Verdict
from raysim.errors import ConfigError, RunError
from raysim.studies.gpus.command import Findings, GpuPlan, bench_gpu, device_to_measure, measure
from raysim.studies.gpus.timings import TrainingCase
from raysim.studies.gpus.verdicts import TOLERANCE, Agreement, difference
from raysim.studies.matrix import MatrixSpec

SMALL = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=8, malicious=2, width=0.25)
PLAN = GpuPlan(
    devices.REHEARSAL,
    threads=1,
    judged=("krum", "layercam_ae"),
    matrix=SMALL,
    timed=(("median", SMALL),),
    training=TrainingCase(clients=4, together=2, samples=20),
    repeats=1,
)


@dataclass(frozen=True)
class TellsDevicesApart(Defense):
    """Flags the first client on a GPU, and nobody on the CPU."""

    def apply(self, state, updates, ctx):
        from raysim.backends.base import ACCELERATED

        flagged = np.zeros(updates.num_clients, bool)
        flagged[0] = ctx.run("ask", devices.accelerated, needs=ACCELERATED)
        weights = np.full(len(flagged), 1 / len(flagged))
        return Verdict(updates.combine(weights), weights, None, flagged), state


def test_verdicts_seconds_and_training_are_compared(capsys):
    told: list[str] = []
    found = measure(PLAN, told.append)
    assert told == ["verdicts of krum", "verdicts of layercam_ae", "local training", "seconds of median"]
    assert [(one.defense, one.flags, one.stages) for one in found.agreements] == [
        ("krum", 0, ("gram",)),
        ("layercam_ae", 0, ("cam", "autoencoder")),
    ]
    assert all(one.holds for one in found.agreements)
    assert [(label, pair.what) for label, pair in found.stages] == [
        ("median", "order_statistics"),
        ("median", "whole apply"),
    ]
    assert [pair.what for pair in found.training] == ["one after another", "in stacks of 2"]
    assert all(pair.ratio > 0 for pair in [*found.training, *(pair for _, pair in found.stages)])
    assert 0 < found.training_apart < 1e-4
    assert found.failures() == []
    bench_gpu(PLAN.only(("krum",)), told.append)
    assert "all 1 defenses judge alike" in capsys.readouterr().out


def test_a_verdict_that_differs_is_a_failure(capsys):
    plan = PLAN.only(("krum", "tests.studies.test_gpus:TellsDevicesApart"))
    with pytest.raises(RunError, match="TellsDevicesApart judges otherwise on the device"):
        bench_gpu(plan, lambda part: None)
    assert "krum" in capsys.readouterr().out


def test_what_is_not_begun_in_time_is_said_and_verdicts_must_be(capsys):
    with pytest.raises(RunError, match="2 defenses were not compared in time"):
        bench_gpu(replace(PLAN, limit_s=-1.0), lambda part: None)
    assert "left out, the time was up: seconds of median" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"flags": 1}, False),
        ({"scores": 2 * TOLERANCE}, False),
        ({"weights": None, "scores": None}, True),
        ({"aggregate": float("inf")}, False),
    ],
)
def test_what_counts_as_the_same_verdict(change, holds):
    assert replace(Agreement("krum", 0, 0.5 * TOLERANCE, 0.0, 0.0, ()), **change).holds == holds


def test_training_that_goes_another_way_is_a_failure():
    assert Findings(training_apart=TOLERANCE / 2).failures() == []
    assert "trained in other ways" in Findings(training_apart=1.0).failures()[0]


def test_differences_are_relative_to_the_largest_value():
    assert difference(None, None) is None
    assert difference(np.zeros(3), np.zeros(3)) == 0
    assert difference(np.array([0.0, 10.0, np.inf]), np.array([1.0, 10.0, np.inf])) == pytest.approx(0.1)
    for left, right in ((np.zeros(2), np.ones(2)), (np.ones(2), np.ones(3)), (np.ones(1), None)):
        assert difference(left, right) == np.inf
    assert difference(np.array([1.0]), np.array([np.nan])) == np.inf


def test_without_a_gpu_it_is_said_and_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(devices, "obstacle", lambda: "torch finds no CUDA device")
    with pytest.raises(ConfigError, match="torch finds no CUDA device; --rehearse takes the same paths"):
        device_to_measure(rehearse=False)
    assert device_to_measure(rehearse=True) == devices.REHEARSAL
    done = CliRunner().invoke(app, ["bench", "gpu"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert "device: must be a GPU, and torch finds no CUDA device" in done.stderr
