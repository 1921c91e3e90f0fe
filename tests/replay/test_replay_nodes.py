"""Replays on clusters that are brought up for them: the live verdicts, whatever the number of nodes."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import raysim
from raysim import ConfigError, RecordError, RunError
from raysim.cli.main import app
from raysim.config.schema import Component
from raysim.replay.on_nodes import parse_nodes, replay_on_nodes
from raysim.replay.summary import read_replay

KRUM = Component(name="krum", num_byzantine=2)


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    config = {
        "rounds": 2,
        "population": {"clients": 10, "malicious": 2},
        "updates": "synthetic",
        "defense": {"name": "krum", "num_byzantine": 2},
        "server_data": {"samples": 20},
        "resources": {"clients_per_actor": 3},
        "record": {"updates": True},
    }
    out = tmp_path_factory.mktemp("runs")
    return raysim.run(config, name="live", out=out, backend="inprocess").path


@pytest.mark.ray
def test_two_nodes_give_the_live_verdicts(run_path):
    [directory] = replay_on_nodes(run_path, [KRUM], [2], cpus_per_node=1, rounds=(0, 1), warm_up=True)
    assert directory == run_path / "replays" / "krum@2nodes"
    found = read_replay(run_path, directory)
    assert found.verdicts == found.live
    assert (found.nodes, found.rounds) == (2, 2)
    assert len(json.loads((directory / "environment.json").read_text())["nodes"]) == 2
    assert "krum@2nodes" in (run_path / "replays" / "summary.md").read_text()


def test_mistakes_cost_no_start_up(run_path, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("a cluster was brought up")

    monkeypatch.setattr("cluster.clusters.bring_up", refuse)
    with pytest.raises(ConfigError, match="did you mean 'krum'"):
        replay_on_nodes(run_path, [Component(name="krun")], [1])
    with pytest.raises(RecordError, match="no recorded updates"):
        replay_on_nodes(run_path, [KRUM], [1], rounds=(7, 9))
    for options in (
        ["--nodes", "0"],
        ["--nodes", "two"],
        ["--nodes", "1", "--address", "10.0.0.1:1"],
        ["--bandwidth", "1gbit"],
        ["--kind", "namespaces"],
    ):
        result = CliRunner().invoke(app, ["replay", str(run_path), "--defense", "krum", *options])
        assert result.exit_code == 2, result.output


def test_a_driver_that_fails_is_an_error(run_path, monkeypatch):
    """The child's own message goes to stderr; here it never gets as far as Ray."""
    from contextlib import contextmanager

    class Broken:
        address = "nowhere"

        def run(self, words):
            assert json.loads(words[-1])["suffix"] == "@3nodes"
            return 1

    @contextmanager
    def bring_up(kind, **options):
        assert (kind, options["nodes"], options["bandwidth"]) == ("namespaces", 3, "100mbit")
        yield Broken()

    monkeypatch.setattr("cluster.clusters.bring_up", bring_up)
    with pytest.raises(RunError, match="on 3 nodes ended with exit status 1"):
        replay_on_nodes(run_path, [KRUM], [3], kind="namespaces", bandwidth="100mbit")


def test_numbers_of_nodes():
    assert parse_nodes("4, 1,4") == [4, 1]
    for text in ("", "1,", "-1", "1;2"):
        with pytest.raises(ConfigError, match="--nodes"):
            parse_nodes(text)
