from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner, Result

import cluster.clusters
from cluster import Cluster
from raysim.cli.main import app


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["cluster", "run", *words])


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What bring_up is asked for; its cluster is no more than an environment."""
    asked: list[object] = []

    @contextlib.contextmanager
    def bring_up(kind: str, **options: object) -> Iterator[Cluster]:
        asked.append((kind, {key: value for key, value in options.items() if value is not None}))
        yield Cluster("here:1", {"RAY_ADDRESS": "here:1"}, inside=("env", "INSIDE=yes"))
        asked.append("down")

    monkeypatch.setattr(cluster.clusters, "bring_up", bring_up)
    return asked


def test_the_command_runs_on_the_heads_host_and_gives_the_exit_status(requests, tmp_path):
    script = "import os, sys; print(sys.argv[1:], os.environ['RAY_ADDRESS'], os.environ['INSIDE'],"
    script += f" file=open({str(tmp_path / 'said')!r}, 'w')); sys.exit(3)"
    done = call("namespaces", "--nodes", "2", "--cpus", "1", "--bandwidth", "1gbit", "--",
                sys.executable, "-c", script, "run", "--nodes", "9")  # fmt: skip
    assert done.exit_code == 3
    assert (tmp_path / "said").read_text() == "['run', '--nodes', '9'] here:1 yes\n"
    asked = {"nodes": 2, "cpus_per_node": 1, "gpus_per_node": 0, "bandwidth": "1gbit"}
    assert requests == [("namespaces", asked), "down"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["raylet", "--", "true"], "did you mean 'raylets'"),
        (["raylets", "--nodes", "0", "--", "true"], "nodes: must be at least 1; received 0"),
        (["raylets", "--bandwidth", "1gbit", "--", "true"], "bandwidth: is a limit on links"),
        (["address", "--", "true"], "address: must be given with kind address"),
        (["raylets", "--nodes", "2"], "COMMAND"),
    ],
)
def test_mistakes_are_status_2(words: list[str], said: str):
    done = call(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
