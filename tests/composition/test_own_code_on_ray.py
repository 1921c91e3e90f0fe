"""A program's own classes on Ray's workers: from `__main__`, from modules beside it, and from a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
from torch import nn

from sizes import WIDTH  # beside it as well


class Net(nn.Module):
    def __init__(self, num_classes, input_shape):
        super().__init__()
        self.hidden = nn.Linear(input_shape[0], WIDTH)
        self.last = nn.Linear(WIDTH, num_classes)

    def forward(self, x):
        return self.last(self.hidden(x).relu())
"""

PROGRAM = """
import sys
from dataclasses import dataclass

import numpy as np

import raysim
from network import Net

draw = np.random.default_rng(0)
labels = draw.integers(0, 3, 80)
features = (draw.normal(size=(80, 6)) + 3 * np.eye(3, 6)[labels]).astype(np.float32)
data = (features[:60], labels[:60]), (features[60:], labels[60:])


@dataclass(frozen=True)
class Rescaled(raysim.Attack):
    factor: float = -2.0

    def train(self, honest_train, data, ctx):
        import lazily  # beside nothing: the runtime environment brings it

        assert lazily.LOADED
        return (self.factor * honest_train(data)).astype(np.float32)


@dataclass(frozen=True)
class Clipped(raysim.Defense):
    def apply(self, state, updates, ctx):
        norms = np.array(updates.map_rows("norms", norm))
        weights = updates.shares
        scale = np.minimum(1.0, np.median(norms) / norms)
        return raysim.Verdict(updates.combine(weights * scale), weights, norms), state


def norm(rows):
    return [float(np.linalg.norm(row)) for row in rows]


if __name__ == "__main__":
    import ray

    config = {"rounds": 1, "population": {"clients": 4, "malicious": 1}, "server_data": {"samples": 8}}
    config["resources"] = {"clients_per_actor": 4}
    objects = {"model": Net, "data": data, "attack": Rescaled(), "defense": Clipped()}
    environment = {"py_modules": [sys.argv[2] + "/lazily.py"]}
    with raysim.session(runtime_env=environment):
        try:
            raysim.run({**config, "resources": {"runtime_env": environment}}, out=sys.argv[1], **objects)
        except raysim.ConfigError as error:
            assert "connected, which it is already" in str(error)
        named = {**config, "model": "network:Net"}  # tests/tutorials: a model as an object
        there = raysim.run(named, name="ray", out=sys.argv[1], **{**objects, "model": None})
        assert ray.is_initialized(), "the session keeps the connection"
    assert not ray.is_initialized(), "the session is over"
    assert ray.cloudpickle.list_registry_pickle_by_value() == set()
    sys.path.append(sys.argv[2])
    here = raysim.run(config, name="here", out=sys.argv[1], backend="inprocess", **objects)
    print(there.digest, here.digest)
"""


@pytest.mark.ray
def test_own_code_does_the_same_on_ray(tmp_path: Path, joins_ray: dict[str, str]) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "sizes.py").write_text("WIDTH = 5\n")
    (project / "network.py").write_text(NETWORK)
    (project / "program.py").write_text(PROGRAM)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lazily.py").write_text("LOADED = True\n")
    done = subprocess.run(
        [sys.executable, str(project / "program.py"), str(tmp_path / "runs"), str(tmp_path / "elsewhere")],
        cwd=tmp_path, capture_output=True, text=True, env=joins_ray, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    there, here = done.stdout.split()
    assert there == here
