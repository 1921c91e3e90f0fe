"""What `make install` says, and leaves when a step fails, with a stand-in for Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PYTHON = """#!/bin/sh
case "$*" in *"$FAILING"*) echo "the reason" >&2; exit 1 ;; esac
mkdir -p .venv/bin
cp "$0" .venv/bin/python 2> /dev/null || true
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("failing", "steps"), [("venv", 1), ("--upgrade", 2), ("--constraint", 3), ("nothing", 3)]
)
def test_a_failed_step_is_named_and_nothing_counts_as_installed(failing: str, steps: int, tmp_path: Path):
    (tmp_path / "docs" / "results").mkdir(parents=True)
    for name in ("Makefile", "docs/results/commands.mk", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    ready = tmp_path / ".venv" / ".ready"
    ready.parent.mkdir()
    ready.touch()
    os.utime(ready, (0, 0))  # an earlier environment, older than pyproject.toml
    done = subprocess.run(
        ["make", "install", "PYTHON=./python"], cwd=tmp_path, env={**os.environ, "FAILING": failing},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    said = [line[:5] for line in done.stdout.splitlines() if line.startswith("[")]
    assert said == [f"[{step}/3]" for step in range(1, steps + 1)]
    failed = failing != "nothing"
    assert (done.returncode != 0) == failed
    assert (f"the reason\nstep {steps}/3 failed, for the reason above" in done.stderr) == failed
    assert ready.exists() != failed
