"""The rounds benchmark at tiny size: it measures what it says, and prints it."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import Span
from raysim.cli.main import app
from raysim.composition.compose import compose
from raysim.config.schema import ExperimentConfig
from raysim.engine.host import ClientHost, RoundOrder
from raysim.studies.memory import TotalMemory, total_pss
from raysim.studies.rounds.bare_loop import BareLoop
from raysim.studies.rounds.cases import bench_config
from raysim.studies.rounds.measure import RoundTimes, idle_share
from raysim.studies.rounds.neighbour import busy_neighbour


def test_the_ratio_is_to_bare_time_over_workers():
    times = RoundTimes(np.array([2.0, 4.0]), np.array([3.0, 5.0]), np.array([1.5, 2.0]), 2, {})
    np.testing.assert_allclose(times.ratios, [1.5, 1.0])


@pytest.mark.parametrize(
    ("threaded", "speed_ups"), [([3.0, 5.0, 9.0], [4.0, 2.0, 2.0]), ([1.0, 2.0, 1.0], [2, 1, 1])]
)
def test_the_speed_up_is_over_the_faster_bare_loop(threaded, speed_ups):
    times = RoundTimes(np.array([2.0, 4.0, 2.0]), np.array(threaded), np.array([0.5, 2.0, 1.0]), 2, {})
    np.testing.assert_allclose(times.speed_ups, speed_ups)


def test_idle_is_what_calls_do_not_fill():
    """Two workers for 4 s: calls of 3, 2 and 1 s leave 2 of 8 s over."""

    def span(stage, task, wall_s):
        return Span(stage, task, "here", 0.0, wall_s, 0.0, 0, 0, 0, pid=70 + task % 2)

    spans = [
        span("train", -1, 4.0),
        *(span("train", task, 3.0 - task) for task in range(3)),
        span("gram", -1, 9.0),
    ]
    assert idle_share(spans, 2) == 0.25
    assert (idle_share(spans, 1, 70), idle_share(spans, 1, 71)) == (0.0, 0.5)


def test_a_worker_may_have_a_busy_neighbour():
    """While it has, it is bound to one core, and a child of this process computes on that one, as eagerly."""
    own, core = os.sched_getaffinity(0), min(os.sched_getaffinity(0))
    worker = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL
    )
    try:
        before = set(psutil.Process().children())
        with busy_neighbour([worker.pid]):
            assert psutil.Process(worker.pid).cpu_affinity() == [core]
            (neighbour,) = set(psutil.Process().children()) - before
        assert not neighbour.is_running()
        assert os.sched_getaffinity(0) == own
    finally:
        worker.kill()
        worker.wait()
    with pytest.raises(RuntimeError, match="as many cores"):
        busy_neighbour([os.getpid()] * (len(own) + 1)).__enter__()


@pytest.mark.parametrize("words", [["--backend", "inprocess"], ["--workers", "4096"]])
def test_uneven_workers_need_cores_of_their_own(words):
    result = CliRunner().invoke(app, ["bench", "rounds", "digits", "--uneven", *words])
    assert result.exit_code == 2


@pytest.mark.parametrize("case", ["dirichlet", "lognormal"])
def test_skewed_cases_are_skewed(case):
    sizes = compose(bench_config(case, 1)).sizes
    assert sizes.max() > 4 * np.median(sizes)
    assert sizes.sum() > 19_000


def test_the_bare_loop_does_the_same_work_as_the_host(tiny):
    """Same clients, same number of steps, same data; without shuffling differences the updates would be equal."""
    config = ExperimentConfig.from_mapping(
        {
            **tiny,
            "population": {"clients": 3},
            "attack": None,
            "defense": "fedavg",
            "training": {"batch_size": 1000},
        }
    )
    experiment = compose(config)
    host = ClientHost(experiment.setup, *experiment.arrays)
    states = BareLoop(experiment.setup, host, np.arange(3)).round()
    tile, _, _ = host.train(RoundOrder(0, 1), [0, 1, 2], experiment.initial, None)
    layout = experiment.setup.layout
    for row, state in zip(tile, states, strict=True):
        expected = np.concatenate([state[entry.name].numpy().reshape(-1) for entry in layout.parameters])
        np.testing.assert_allclose(experiment.initial[: layout.dim] + row, expected, atol=1e-6)


def test_bench_configurations_are_what_they_are_called():
    digits = bench_config("digits", 9)
    assert (digits.population.clients, digits.rounds) == (100, 9)
    assert bench_config("cifar10", 3, "/somewhere").data.root == "/somewhere"


def test_memory_watch_sees_an_allocation():
    before = total_pss()
    with TotalMemory(pause_s=0.01) as watch:
        block = np.ones(2**23)
        wanted, deadline = before + 2**25, time.monotonic() + 60
        while watch.peak_bytes < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        del block
    assert watch.peak_bytes >= wanted


def test_the_command_shows_what_it_measured(tmp_path):
    words = ["rounds", "digits", "--repeats", "1", "--backend", "inprocess", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", *words])
    assert result.exit_code == 0, result.output
    assert "| bare loop on the same cores / simulated round |" in result.stdout
    assert (tmp_path / "rounds.parquet").exists()


def test_an_unknown_case_is_refused():
    result = CliRunner().invoke(app, ["bench", "rounds", "digit"])
    assert result.exit_code == 2
    assert "digits" in result.stderr


def test_in_process_backend_reports_one_worker():
    assert InProcessBackend().workers == 1
