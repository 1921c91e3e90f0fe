"""Closed doors: Ray listens on loopback alone, its token is its owner's, and nothing that a run leaves holds it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.report.page import render

pytestmark = pytest.mark.ray


def listening() -> dict[str, set[str]]:
    """Address -> names of the processes, this one and all that it started, that listen there."""
    found: dict[str, set[str]] = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            ports = process.net_connections()
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue
        for port in ports:
            if port.status == psutil.CONN_LISTEN:
                found.setdefault(port.laddr.ip.removeprefix("::ffff:"), set()).add(process.name())
    return found


def test_every_port_is_on_loopback(ray_cluster):
    found = listening()
    assert set(found) <= {"127.0.0.1", "::1"}, found
    assert {"gcs_server", "raylet"} <= found["127.0.0.1"]


def test_also_where_a_program_imported_ray_before(small_store):
    assert {"127.0.0.1"} <= set(small_store["listening"]) <= {"127.0.0.1", "::1"}


def test_the_token_is_its_owners_and_in_nothing_that_a_run_leaves(ray_cluster, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "not-for-any-record-4711")
    path = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = {
        **tiny,
        "rounds": 1,
        "attack": None,
        "defense": "fedavg",
        "resources": {"clients_per_actor": 10},
    }
    result = raysim.run(config, name="run", out=tmp_path)
    render(result.path)
    left = [file for file in result.path.rglob("*") if file.is_file()]
    assert {"environment.json", "config.yaml", "report.html"} <= {file.name for file in left}
    for file in left:
        for secret in (path.read_text().strip(), "not-for-any-record-4711"):
            assert secret.encode() not in file.read_bytes(), file


def test_the_help_says_what_runs_foreign_code():
    shown = " ".join(CliRunner().invoke(app, ["run", "--help"]).output.replace("│", " ").split())
    assert "import path" in shown
    assert "resources.runtime_env" in shown
    assert "nothing else in a configuration runs code" in shown
