"""The plan's sums, by hand, and its objections."""

from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from raysim.backends.capacity import Capacity
from raysim.cli.main import app
from raysim.composition.compose import compose
from raysim.composition.estimate import PROCESS_BYTES, lines, make_plan
from raysim.config.schema import ExperimentConfig

ROOMY = Capacity(cpus=2, object_store_bytes=2**33)


@pytest.fixture
def experiment(tiny):
    return compose(ExperimentConfig.from_mapping(tiny), ROOMY)


def test_the_sums(experiment):
    plan = make_plan(experiment, ROOMY, 2**34, calibrate=False)
    model = 4 * 13706
    assert plan.model_bytes == model
    assert (plan.actors.count, plan.calls_per_round) == (2, 5)
    assert plan.actor_bytes == PROCESS_BYTES + 5 * model + 3 * model
    data = sum(array.nbytes for array in experiment.arrays)
    assert plan.store_bytes == 10 * model + 3 * model + data
    assert plan.gram_bytes == 8 * 100 * 3
    assert math.isnan(plan.round_s)
    assert plan.warnings == ()


def test_calibration_gives_seconds(experiment):
    plan = make_plan(experiment, ROOMY, 2**34)
    assert plan.train_s > 0
    assert plan.round_s == pytest.approx((10 * plan.train_s + plan.evaluate_s) / 2)
    assert any(what == "rounds an hour" for what, _ in lines(experiment.config, plan))


def test_what_will_not_fit_names_the_key(experiment, tiny):
    small = make_plan(experiment, Capacity(cpus=2, object_store_bytes=2**19), 2**28, calibrate=False)
    keys = " ".join(small.warnings)
    assert "resources.clients_per_actor to at least 10" in keys
    assert "population.cohort" in keys
    assert "spill" in keys


def test_the_command_prints_plan_and_warnings():
    words = ["plan", "quickstart", "data.limit=300", "server_data.samples=20", "--over-nodes"]
    result = CliRunner().invoke(app, words)
    assert "nodes of 16 cores  10 Gbit/s  25 Gbit/s" in result.output
    assert "a round's detection, foretold from one core of this machine" in result.output
    assert result.exit_code == 0, result.output
    assert "client actors" in result.output
    assert "rounds an hour" in result.output
    assert CliRunner().invoke(app, ["plan", "defense.name=krun"]).exit_code == 2
