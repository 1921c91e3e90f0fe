"""Small runs that users stumbled over, from the command line: each says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from raysim.cli.main import app


def run(tmp_path: Path, *words: str) -> Result:
    where = ["--backend", "inprocess", "--out", str(tmp_path), "--name", "run"]
    return CliRunner().invoke(app, ["run", *words, *where])


def test_a_run_whose_uploads_are_all_rejected_says_why(tmp_path: Path):
    words = ["rounds=2", "population.clients=6", "population.malicious=0", "data.limit=200", "attack=none"]
    result = run(tmp_path, *words, "defense=fedavg", "server_data.samples=0", "training.optimizer.lr=1e30")
    assert result.exit_code == 0, result.stderr
    rounds = [line for line in result.stdout.splitlines() if line.startswith("round ")]
    assert all(line.endswith("; 6 of 6 uploads rejected: non-finite") for line in rounds)
    assert "12 of 12 uploads rejected by the engine: non-finite." in result.stdout
    assert "In rounds 0, 1 no upload was left to judge: the global model stayed" in result.stdout
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("FPR")] == [
        ["FPR", "-", "0"]
    ]


def test_a_name_that_an_ascii_locale_cannot_write_is_refused_in_one_line(tmp_path: Path):
    bare = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-m", "raysim", "run", "rounds=1", "--backend", "inprocess"]
    out = f"{tmp_path}/ü".encode()
    done = subprocess.run([*command, "--out", out], env=bare, capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.decode("ascii").splitlines()
    assert line.startswith("error: out: must be text in the locale")
    assert "PYTHONUTF8=1" in line
    assert list(tmp_path.iterdir()) == []
