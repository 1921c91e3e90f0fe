"""Replays on clusters that are brought up for them: the live verdicts, whatever the number of nodes."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

import raysim
from raysim import ConfigError, RecordError, RunError
from raysim.cli.main import app
from raysim.replay.summary import read_replay
from raysim.studies.replays import Replay, ReplayCell, ReplayPlan
from raysim.studies.runner import carry_out
from tests import federations

KRUM = "krum,num_byzantine=2"


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    kept = {"resources": {"clients_per_actor": 3}, "record": {"updates": True}}
    config = {**federations.drawn(), "rounds": 2, **kept}
    out = tmp_path_factory.mktemp("runs")
    return raysim.run(config, name="live", out=out, backend="inprocess").path


def replays(run, **plan):
    return carry_out(Replay(), ReplayPlan(run=str(run), **plan), run / "replays", tell=lambda line: None)


@pytest.mark.ray
def test_two_nodes_give_the_live_verdicts(run_path, shares_two_nodes):
    replays(run_path, defense=KRUM)
    text = replays(run_path, defense=KRUM, nodes="2", cpus_per_node=1, rounds="0-1", warm_up=True)
    assert [(asked["nodes"], asked["cpus_per_node"]) for asked in shares_two_nodes] == [(2, 1)]
    directory = run_path / "replays" / f"{KRUM}@2nodes"
    found, stages = read_replay(run_path, directory)
    assert found.verdicts == found.live
    assert (found.nodes, found.rounds) == (2, 2)
    assert "gram" in stages
    assert len(json.loads((directory / "environment.json").read_text())["nodes"]) == 2
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {KRUM} | 1 | 2 |")]
    assert "| live, krum,num_byzantine=2@2nodes |" in line


def test_mistakes_cost_no_start_up(run_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a cluster was brought up")

    monkeypatch.setattr("cluster.clusters.bring_up", refuse)
    with pytest.raises(ConfigError, match="did you mean 'krum'"):
        replays(run_path, defense="krun", nodes="2")
    with pytest.raises(RecordError, match="no recorded updates"):
        replays(run_path, defense=KRUM, nodes="2", rounds="7-9")
    for options in (
        ["--nodes", "0"],
        ["--nodes", "two"],
        ["--nodes", "1,2", "--address", "10.0.0.1:1"],
        ["--bandwidth", "1gbit"],
        ["--rounds", "1-x"],
        ["--nodes", "2", "--backend", "inprocess"],
    ):
        result = CliRunner().invoke(app, ["replay", str(run_path), "--defense", "krum", *options])
        assert result.exit_code == 2, result.output


def test_a_driver_that_fails_is_an_error(run_path, monkeypatch):
    """The child's own message goes to stderr; here it never gets as far as Ray."""

    class Broken:
        def run(self, words):
            assert words[-3] == "raysim.studies.replays:Replay"
            assert words[-1] == "3"
            return 1

    @contextmanager
    def bring_up(kind, **options):
        assert (kind, options["nodes"], options["bandwidth"]) == ("namespaces", 3, "100mbit")
        yield Broken()

    monkeypatch.setattr("cluster.clusters.bring_up", bring_up)
    with pytest.raises(RunError, match="on 3 nodes ended with status 1"):
        replays(run_path, defense=KRUM, nodes="3", kind="namespaces", bandwidth="100mbit")


@pytest.mark.parametrize(
    ("given", "backend", "suffixes"),
    [
        ({}, "inprocess", [""]),
        ({"nodes": "1", "kind": "raylets"}, "inprocess", [""]),
        ({"backend": "ray"}, "ray", ["@1node"]),
        ({"nodes": "1,2"}, "ray", ["@1node", "@2nodes"]),
        ({"address": "10.0.0.1:1", "nodes": "2"}, "ray", ["@2nodes"]),
    ],
)
def test_where_replays_run_follows_from_what_is_given(given, backend, suffixes):
    plan = ReplayPlan(run="runs/first", defense="krum", **given)
    cells = Replay().cells(plan)
    assert {plan.backend, *(cell.backend for cell in cells)} == {backend}
    assert [cell.suffix for cell in cells] == suffixes
    assert cells[0] == ReplayCell(plan.nodes[0], backend, "krum")
