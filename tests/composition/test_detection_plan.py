"""Detection foretold for a configuration: how stages grow, into how many pieces they are cut, what a plan says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raysim.backends.capacity import Capacity
from raysim.composition import detection_plan
from raysim.composition.compose import compose
from raysim.composition.detection_plan import (
    COLUMN_TASK_S,
    CORES,
    NODES,
    RATES,
    TASK_S,
    Stage,
    detection_on,
    foretold,
)
from raysim.composition.over_nodes import LINK_SHARE
from raysim.config.schema import ExperimentConfig


@pytest.fixture(scope="module")
def experiment():
    """12 clients of a small network, trained each by itself: any number of row blocks up to 12; four column shards."""
    config = {
        "population": {"clients": 12},
        "data": {"name": "digits"},
        "model": "digits_cnn",
        "training": {"clients_per_stack": 1},
        "defense": "krum",
    }
    found = compose(ExperimentConfig.from_mapping(config), Capacity(cpus=2))
    dim = found.setup.layout.dim
    return replace(found, setup=replace(found.setup, bounds=(*range(0, dim, 4096), dim)))


def test_a_stage_grows_by_the_power_that_half_as_many_clients_tell():
    gram = Stage("gram", 4.0, 3.0, 2).grown(Stage("gram", 1.0, 0.75, 2), 3.0)
    assert (gram.wall_s, gram.busy_s) == (pytest.approx(36.0), pytest.approx(27.0))
    assert Stage("norms", 4.0, 4.0, 2).grown(Stage("norms", 2.0, 2.0, 2), 3.0).wall_s == pytest.approx(12.0)
    assert Stage("odd", 9.0, 9.0, 2).grown(Stage("odd", 1.0, 1.0, 2), 2.0).wall_s == pytest.approx(36.0)
    assert Stage("vote", 1.0, 0.0, 0).grown(Stage("vote", 2.0, 0.0, 0), 5.0).wall_s == pytest.approx(1.0)


def test_rows_columns_and_single_tasks_are_cut_differently(experiment):
    """1,024 cores: 12 row blocks, as many pieces of columns as shards, one task that nobody can help. A node has at most one of four
    shards, and brings eleven of twelve row blocks to it while it works on none: a single task has no next one.
    """
    shards = len(experiment.setup.bounds) - 1
    assert shards == 4
    stages = [
        Stage("norms", 12.0, 12.0, 2),
        Stage("order_statistics", 12.0, 12.0, 4),
        Stage("fit", 2.0, 2.0, 1),
        Stage("vote", 0.5, 0.0, 0),
    ]
    K, d = 12, experiment.setup.layout.dim
    rate = LINK_SHARE * 10e9
    crossing, answers = 8 * 4 * K * d / 4 * 63 / 64 / rate, 8 * 4 * d * 63 / 64 / rate
    server = TASK_S * (12 + 1) + COLUMN_TASK_S * shards
    expected = 1.0 + (12 / shards + crossing + answers) + 2.0 + 0.5 + server
    assert detection_on(experiment, stages, 64, 10e9) == pytest.approx(expected)


def test_a_plan_foretells_every_cluster(experiment):
    told = foretold(experiment)
    assert set(told.seconds) == {(nodes, rate) for nodes in NODES for rate in RATES}
    assert all(seconds > 0 for seconds in told.seconds.values())
    assert all(told.seconds[nodes, RATES[0]] >= told.seconds[nodes, RATES[1]] for nodes in NODES)
    assert told.measured_clients == 12
    lines, said = detection_plan.rows(experiment)
    assert [line[0] for line in lines] == [str(nodes) for nodes in NODES]
    assert said.endswith("one core of this machine")
    assert CORES == 16


def test_large_cohorts_are_foretold_from_fewer_clients(experiment, monkeypatch):
    monkeypatch.setattr(detection_plan, "MEASURED_BYTES", 0)
    assert foretold(experiment).measured_clients == 8
    assert "measured with 8 of 12 clients" in detection_plan.rows(experiment)[1]
