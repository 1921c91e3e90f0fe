"""A user's own attacks.py, defenses.py or cluster.py beside the script, on either backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ATTACKS = """
from dataclasses import dataclass

import numpy as np

{imports}


@dataclass(frozen=True)
class Louder(raysim.Attack):
    def train(self, honest_train, data, ctx):
        return (-2 * honest_train(data)).astype(np.float32)
"""

PROGRAM = """
import sys

{imports}

config = {{
    "rounds": 1,
    "population": {{"clients": 5, "malicious": 1}},
    "data": {{"name": "digits", "limit": 60}},
    "defense": {{"name": "krum", "num_byzantine": 1}},
    "server_data": {{"samples": 5}},
    "resources": {{"clients_per_actor": 5}},
}}
if __name__ == "__main__":
    runs = [raysim.run(config, out=sys.argv[1], name=backend, backend=backend, attack=Louder()) for backend in sys.argv[2:]]
    named = {{**config, "attack": "noise"}}
    raysim.run(named, out=sys.argv[1], name="named", backend="inprocess")
    print(*(run.digest for run in runs))
"""


def run(project: Path, *backends: str, env: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(project / "program.py"), str(project / "runs"), *backends],
        cwd=project, capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.ray
def test_own_modules_of_our_names(tmp_path: Path, joins_ray: dict[str, str]) -> None:
    (tmp_path / "attacks.py").write_text(ATTACKS.format(imports="import raysim"))
    (tmp_path / "cluster.py").write_text("raise SystemExit('a script of its own, which nobody imports')\n")
    (tmp_path / "program.py").write_text(
        PROGRAM.format(imports="import raysim\nfrom attacks import Louder\nimport defenses")
    )
    (tmp_path / "defenses.py").write_text("krum = None\n")
    first = run(tmp_path, "inprocess", "ray", env=joins_ray)
    assert len(set(first)) == 1
    (tmp_path / "runs").rename(tmp_path / "earlier")
    (tmp_path / "program.py").write_text(PROGRAM.format(imports="from attacks import Louder\nimport raysim"))
    assert run(tmp_path, "inprocess", env=joins_ray) == first[:1]


def test_a_folder_that_has_our_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "__init__.py").write_text("")
    (tmp_path / "attacks" / "noise.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", "import raysim, attacks"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "noise.py has the name of a module of raysim's package attacks: rename the folder" in done.stderr
