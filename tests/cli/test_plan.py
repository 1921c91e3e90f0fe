"""The plan's sums, by hand, and its objections."""

from __future__ import annotations

import math

import pytest
from typer.testing import CliRunner

from raysim.backends.capacity import Capacity, NodeCapacity
from raysim.cli.main import app
from raysim.composition.compose import compose
from raysim.composition.estimate import PROCESS_BYTES, lines, make_plan
from raysim.composition.machines import machines_of
from raysim.config.schema import ExperimentConfig
from raysim.errors import ConfigError

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


def test_shares_are_refused_on_machines_that_are_not_this_one():
    """A client actor takes some 0.5 GiB of a GPU, a tenth of one of 4 GiB is less; a fifth is enough."""
    words = [
        "plan",
        "quickstart",
        "data.limit=300",
        "server_data.samples=20",
        "--machines",
        "nodes=2,gpus=2,gpu_memory_gib=4",
    ]
    refused = CliRunner().invoke(app, [*words, "resources.client_gpus=0.1"])
    assert refused.exit_code == 2
    assert "resources.client_gpus: must be a share of 4.00 GiB that holds about" in refused.stderr
    planned = CliRunner().invoke(app, [*words, "resources.client_gpus=0.2"])
    assert planned.exit_code == 0, planned.output
    assert "each reserving 0 CPUs and 0.2 GPUs" in planned.output
    assert "of a GPU, an actor" in planned.output


def test_machines_are_described_in_a_word():
    machines = machines_of("--machines", "nodes=3, cpus=8, memory_gib=10, gpus=2, gpu_memory_gib=24")
    assert machines.memory_bytes == 30 * 2**30
    there = machines.capacity
    assert (there.cpus, there.gpus, there.gpu_memory_bytes, there.object_store_bytes) == (
        24,
        6,
        24 * 2**30,
        9 * 2**30,
    )
    assert there.nodes == (NodeCapacity(8, 2),) * 3
    assert there.holds(cpus=0, gpus=0.4) == 12


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("many", r"--machines: must have the form KEY=VALUE,\.\.\. with nodes, .*; received 'many'"),
        ("node=3", r"--machines: .*did you mean 'nodes'"),
        ("nodes=0", r"--machines\.nodes: must be .*at least 1"),
        ("gpus=2", r"--machines\.gpu_memory_gib: must be given with gpus"),
        (
            "gpu_memory_gib=2",
            r"--machines\.gpu_memory_gib: must be given with gpus, and only then; received 2",
        ),
    ],
)
def test_machines_that_are_none(text, said):
    with pytest.raises(ConfigError, match=said):
        machines_of("--machines", text)
