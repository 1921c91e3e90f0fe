"""Runs whose updates are drawn instead of trained: what a row depends on, who is malicious, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import raysim
from raysim import ConfigError, RaysimError, rng
from raysim.backends.base import InProcessBackend
from raysim.backends.capacity import Capacity
from raysim.cli.main import app
from raysim.composition.compose import compose
from raysim.composition.estimate import lines, make_plan
from raysim.config.schema import Component, ExperimentConfig
from raysim.engine import recording
from raysim.engine.simulation import start, train
from raysim.engine.synthetic_updates import DrawnPopulation
from raysim.engine.versions import Start
from raysim.replay.replay import replay
from raysim.report.page import render
from raysim.runs.directory import RunDirectory
from raysim.runs.execution import execute
from tests import federations

VERDICT = ["round", "client", "malicious", "flagged", "score", "weight", "num_examples"]


@pytest.fixture
def drawn():
    return federations.drawn()


def uploads(config, round=0, cohort=None):
    """The updates that the defense of this round is to get, before any attack."""
    experiment, backend = compose(ExperimentConfig.from_mapping(config)), InProcessBackend()
    start(experiment, backend)
    everyone = np.arange(experiment.config.population.total)
    clients = everyone if cohort is None else cohort
    return train(experiment, backend, round, [Start(clients, round, experiment.initial, None, None)])


def rows(config, **where):
    return uploads(config, **where).updates.to_array(buffers=True)


def test_a_row_is_the_populations_own_for_seed_round_and_client(drawn):
    """Whatever it is drawn with: tiles, row blocks, cohorts."""
    population = {"clients": 10, "malicious": 2}
    config = {**drawn, "updates": {"name": "synthetic", "norm": 2.0, "spread": 0.5, "shift": 3.0}}
    experiment = compose(ExperimentConfig.from_mapping({**config, "population": population}))
    layout = experiment.setup.layout
    model = DrawnPopulation(layout, rng.torch_seed(0, "updates", 4), 2.0, 0.5, 3.0)
    planted = np.arange(10) >= 8
    expected, _ = model.rows(np.arange(10), planted, (0, layout.dim))
    np.testing.assert_array_equal(rows(config, round=4)[:, : layout.dim], expected)
    cut = {**config, "resources": {"clients_per_actor": 3, "tile_bytes": 4096}}
    np.testing.assert_array_equal(rows(cut, round=4), rows(config, round=4))
    some = np.array([1, 8, 9])
    np.testing.assert_array_equal(rows(config, round=4, cohort=some), rows(config, round=4)[some])
    assert not np.isclose(rows(config, round=3), rows(config, round=4)).all(axis=1).any()


def test_rows_have_the_norm_and_the_shift_that_were_asked_for(drawn):
    config = {**drawn, "updates": {"name": "synthetic", "norm": 0.1, "spread": 0.0, "shift": 2.0}}
    matrix = rows(config)
    norms = np.linalg.norm(matrix, axis=1)
    np.testing.assert_allclose(norms[:8], 0.1, rtol=0.05)
    np.testing.assert_array_equal(matrix[:8], np.tile(matrix[0], (8, 1)))
    np.testing.assert_allclose(np.linalg.norm(matrix[8] - matrix[0]), 0.2, rtol=0.05)


@pytest.mark.slow
def test_the_planted_clients_are_the_truth_and_krum_avoids_them(drawn, tmp_path):
    config = {**drawn, "updates": {"name": "synthetic", "shift": 3.0}}
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    clients = result.table("clients").to_pylist()
    assert {row["client"] for row in clients if row["malicious"]} == {8, 9}
    assert all(row["weight"] == 0 and row["flagged"] for row in clients if row["malicious"])
    assert {row["num_examples"] for row in clients} == {1}
    assert [row["recall"] for row in result.rounds] == [1.0] * 3
    assert all(np.isnan(row["train_loss"]) and row["main_accuracy"] > 0 for row in result.rounds)
    stages = {span["stage"] for span in result.table("spans").to_pylist()}
    assert {"draw", "gram", "evaluate"} <= stages
    assert "train" not in stages
    assert result.config.updates.options == {"norm": 1.0, "spread": 1.0, "shift": 3.0}
    page = render(result.path).read_text()
    assert "synthetic (norm 1.0, spread 1.0, shift 3.0)" in page
    moved = result.global_vector - compose(result.config).initial
    assert 0.5 < np.linalg.norm(moved) < 4.0


def test_an_attack_crafts_from_honest_rows_when_it_is_active(drawn, tmp_path):
    attack = {"name": "ipm", "schedule": {"start": 1, "stop": 2}}
    far = {"name": "synthetic", "shift": 1e3}
    honest = rows({**drawn, "updates": far, "population": {"clients": 10}}, round=1)
    np.testing.assert_array_equal(rows({**drawn, "updates": far, "attack": attack}, round=1), honest)
    config = {**drawn, "updates": far, "attack": attack, "record": {"updates": True}}
    result = raysim.run(config, name="run", out=tmp_path, backend="inprocess")
    assert [row["malicious"] for row in result.rounds] == [0, 2, 0]
    for number, attackers in ((0, []), (1, [8, 9])):
        path = result.path / "updates" / f"round-{number:06d}"
        judged = recording.read(path, compose(result.config).setup.layout, InProcessBackend())
        matrix = judged.updates.to_array(buffers=True)
        changed = (matrix != rows({**drawn, "population": {"clients": 10}}, round=number)).any(axis=1)
        assert np.flatnonzero(changed).tolist() == attackers


def test_more_clients_than_samples_and_a_cohort_of_them(drawn, tmp_path):
    population = {"clients": 5000, "cohort": 40, "malicious": 0.2}
    result = raysim.run(
        {**drawn, "population": population, "rounds": 2}, name="run", out=tmp_path, backend="inprocess"
    )
    assert [row["clients"] for row in result.rounds] == [40, 40]
    assert all(0 < row["malicious"] < 20 for row in result.rounds)


def test_a_recorded_run_is_replayed_and_a_killed_one_resumed(drawn, tmp_path):
    config = {**drawn, "record": {"updates": True}}
    whole = raysim.run(config, name="whole", out=tmp_path, backend="inprocess")
    [again] = replay(whole.path, [Component(name="krum", num_byzantine=2)])
    live = whole.table("clients").select(VERDICT)
    assert RunDirectory(again).read("clients").select(VERDICT).equals(live)

    experiment, directory = compose(ExperimentConfig.from_mapping(config)), RunDirectory(tmp_path / "cut")
    directory.start(experiment.config.to_yaml(), {})

    def stop(event):
        if event.row and event.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(experiment, InProcessBackend(), directory, stop)
    resumed = raysim.resume(tmp_path / "cut", backend="inprocess")
    assert resumed.digest == whole.digest
    assert resumed.table("clients").equals(whole.table("clients"))


@pytest.mark.ray
def test_ray_and_in_process_agree(drawn, tmp_path, ray_cluster):
    config = {**drawn, "rounds": 2, "attack": {"name": "min_max"}, "record": {"updates": True}}
    local, on_ray = (
        raysim.run(config, name=backend, out=tmp_path, backend=backend) for backend in ("inprocess", "ray")
    )
    assert local.digest == on_ray.digest
    assert local.table("clients").equals(on_ray.table("clients"))


@pytest.mark.parametrize("attack", ["label_flip", {"name": "noise", "base": "own"}, "constrain_and_scale"])
def test_attacks_that_act_in_training_are_refused(drawn, attack):
    with pytest.raises(ConfigError, match=r"attack\.name: must not act in local training"):
        compose(ExperimentConfig.from_mapping({**drawn, "attack": attack}))
    both = {**drawn, "attack": [{"name": "noise", "clients": 1}, attack]}
    with pytest.raises(ConfigError, match=r"attack\.1\.name: must not act in local training"):
        compose(ExperimentConfig.from_mapping(both))


@pytest.mark.parametrize(
    ("updates", "problem"),
    [
        ("synthetik", "did you mean 'synthetic'"),
        ({"name": "synthetic", "nrom": 1}, "did you mean 'norm'"),
        ({"name": "synthetic", "norm": -1}, r"updates\.norm: must be at least 0"),
        ({"name": "synthetic", "spread": float("inf")}, r"updates\.spread"),
        ({"name": "synthetic", "shift": float("nan")}, r"updates\.shift"),
        ({"name": "trained", "norm": 1}, "trained has no options"),
        (None, "updates"),
    ],
)
def test_what_updates_cannot_be(drawn, updates, problem):
    with pytest.raises(RaysimError, match=problem):
        compose(ExperimentConfig.from_mapping({**drawn, "updates": updates}))


def test_the_plan_draws_and_does_not_train(drawn, monkeypatch):
    experiment = compose(ExperimentConfig.from_mapping(drawn))
    monkeypatch.setattr("raysim.engine.host.ClientHost.train", None)
    plan = make_plan(experiment, Capacity(cpus=2), 2**34)
    assert plan.train_s > 0
    assert "drawing one client" in dict(lines(experiment.config, plan))


def test_the_command_line_takes_the_short_form():
    result = CliRunner().invoke(app, ["show", "updates=synthetic", "updates.norm=2"])
    assert result.exit_code == 0, result.output
    assert "updates:\n  name: synthetic\n  norm: 2.0\n  spread: 1.0\n  shift: 1.0\n" in result.output


def test_the_command_line_says_what_is_put_to_the_test(tmp_path):
    words = [
        "run",
        "updates=synthetic",
        "attack=none",
        "rounds=1",
        "data.limit=300",
        "server_data.samples=20",
    ]
    words += ["defense.name=median", "--out", str(tmp_path), "--name", "run", "--backend", "inprocess"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "planted against median, digits, 24 clients" in result.output
    listed = CliRunner().invoke(app, ["list", "updates"])
    assert [line.split()[0] for line in listed.output.splitlines()] == ["trained", "synthetic"]
