"""Tiles of pairs, and memories that lie in tiles, over nodes: the same bytes on 1, 2 and 4, with a node lost, and resumed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import raysim
from raysim.backends.base import InProcessBackend
from tests.tiles_over_nodes import PAIRWISE, said_of_rows

ROUNDS = 4


@pytest.mark.ray
def test_tiles_have_the_same_bytes_on_any_nodes_with_one_lost_and_resumed(tiny, tmp_path) -> None:
    """The host of the clients dies in round 1; a node is lost in round 3 with what the defense made there in round 2, after
    the checkpoint; at last the run is extended in this process."""
    config = {
        **tiny,
        "rounds": ROUNDS,
        "population": {"clients": 10, "malicious": 2, "cohort": 8},
        "attack": {"name": "tests.faulty_methods:DieWhileTraining", "marker": str(tmp_path / "died")},
        "defense": {"name": "tests.tiled_methods:Remembers", "file": str(tmp_path / "lost"), "round": 3},
        "checkpoint": {"every": 2},
        "resources": {"placement": "spread", "clients_per_actor": 8},
    }
    driver = [sys.executable, "-m", "tests.tiles_over_nodes", json.dumps(config), str(tmp_path)]
    subprocess.run(driver, check=True, timeout=400)
    assert (tmp_path / "died").exists()
    found = json.loads((tmp_path / "found.json").read_text())

    expected = said_of_rows(InProcessBackend())
    assert set(expected) == set(PAIRWISE)
    assert found["said"] == {"1": expected, "2": expected, "4": expected}
    assert len(found["used"]["1"]) == 1
    assert min(len(found["used"][nodes]) for nodes in ("2", "4")) >= 2

    calm = raysim.run({**config, "rounds": ROUNDS + 2}, name="calm", out=tmp_path, backend="inprocess")
    disturbed = raysim.resume(tmp_path / "disturbed", rounds=ROUNDS + 2, backend="inprocess")
    assert disturbed.digest == calm.digest
    tables = [(run.path / "clients.parquet").read_bytes() for run in (calm, disturbed)]
    assert tables[0] == tables[1]
    spans = disturbed.table("spans").to_pylist()
    again = [(span["round"], span["retries"]) for span in spans if span["stage"] == "restart"]
    assert again == [(2, 1)]
    assert max(span["round"] for span in spans if span["node"] == found["lost"]) <= 3
