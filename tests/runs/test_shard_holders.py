"""Nodes that hold different shards: clients are hosted beside theirs, the bytes are those of one machine that has all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysim
from raysim.backends.base import InProcessBackend
from raysim.composition.compose import compose
from raysim.composition.sharding import write_data
from raysim.data.assignment import AllBut
from raysim.data.shards import Column, held, read_there
from raysim.engine.calls import near, split_cohort
from raysim.engine.experiment import NOWHERE, Homes
from raysim.runs import shard_holders
from raysim.runs.result import RunResult

CONFIG: dict[str, Any] = {
    "rounds": 2,
    "population": {"clients": 12, "malicious": 3, "placement": [1, 4, 10]},
    "data": {"name": "digits", "limit": 300},
    "attack": {"name": "label_flip"},
    "defense": {"name": "krum", "num_byzantine": 3},
    "server_data": {"samples": 0},
}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """CONFIG's clients in shards of about three."""
    folder = tmp_path / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(raysim.write_shards.__kwdefaults__, "shard_bytes", 80 * 64 * 4)
        index = write_data(raysim.ExperimentConfig.from_mapping(CONFIG), folder)
    assert [part.clients for part in index.train] == [3, 3, 3, 3]
    return folder


def on(root: str | Path, **groups: Any) -> dict[str, Any]:
    data = {"name": "shards", "root": str(root), "store": "nodes", "partition": "natural"}
    return {**CONFIG, "data": data, **groups}


def composed(root: str | Path, **groups: Any) -> Any:
    return compose(raysim.ExperimentConfig.from_mapping(on(root, **groups)))


def split(whole: Path, **holders: str) -> dict[str, Path]:
    """Folders with the index and the shards whose numbers each has; the first has the other files, too."""
    folders = {}
    for name, numbers in holders.items():
        folders[name] = whole.with_name(name)
        folders[name].mkdir()
        others = [] if len(folders) > 1 else ["clients.arrow", "test.arrow"]
        for file in ("shards.json", *others, *(f"train-{int(number):05}.arrow" for number in numbers)):
            shutil.copy(whole / file, folders[name])
    return folders


def test_clients_live_where_their_shard_is_and_share_holders_evenly() -> None:
    shard_of = np.array([0, 0, 1, 1, NOWHERE, 2, 2])
    found = shard_holders.homes_of(
        shard_of, {0: ("a" * 20, "b" * 20), 1: ("a" * 20, "b" * 20), 2: ("b" * 20,)}
    )
    assert found.names == ("a" * 12, "b" * 12)
    assert found.of.tolist() == [0, 0, 1, 1, -1, 1, 1]
    assert found.most(np.array([0, 1, 5])) == "a" * 12
    assert found.most(np.array([4])) == ""


def test_the_shard_of_a_client_is_that_of_its_first_sample(whole: Path) -> None:
    column = composed(whole).arrays[0]
    rows = np.cumsum([0, *(part.rows for part in column.index.train)])
    offsets = np.array([0, 4, 4, rows[1] - 2, rows[1] - 1])
    assert shard_holders.shards_of(column, AllBut(np.array([2, 3])), offsets).tolist() == [0, NOWHERE, 0, 1]


def test_every_call_lies_on_one_node_and_all_clients_are_called(whole: Path) -> None:
    experiment = composed(whole, training={"clients_per_stack": 1})
    cohort = np.arange(12)
    assert near(experiment, [cohort]) == []
    homes = Homes(("a", "b"), np.array([0, 1] * 5 + [1, 1], np.int16))
    placed = shard_holders.replace(experiment, homes=homes)
    calls = split_cohort(cohort, placed, 4)
    assert sorted(np.concatenate(calls).tolist()) == cohort.tolist()
    assert Counter(near(placed, calls)).keys() == {"a", "b"}
    for members, home in zip(calls, near(placed, calls), strict=True):
        assert {homes.names[homes.of[member]] for member in members} == {home}


def test_what_a_machine_lacks_it_borrows(whole: Path) -> None:
    folders = split(whole, mine="02", other="13")
    column = composed(folders["mine"]).arrays[0]
    assert held(folders["mine"], column.index) == [0, 2]
    asked = []

    def lend(number: int, *args: Any) -> np.ndarray:
        asked.append(number)
        return read_there(folders["other"], number, *args)

    rows = np.array([0, 100, 299, 3])
    borrowing, complete = (
        Column(folder, column.index, "input", parted=True, lend=lend) for folder in (folders["mine"], whole)
    )
    np.testing.assert_array_equal(borrowing[rows], complete[rows])
    assert asked == [1, 3]


def test_what_cannot_work_is_refused_with_the_file(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folders = split(whole, mine="02", other="13")
    experiment = composed(folders["mine"])

    def nodes(**holds: list[int]) -> None:
        monkeypatch.setattr(shard_holders, "of_each_node", lambda *asked: holds)

    nodes(a=[0, 2], b=[3])
    with pytest.raises(
        raysim.DataError, match=r"1 of 4 shards lie on none of 2 nodes, train-00001.arrow first: copy"
    ):
        shard_holders.beside_shards(experiment)
    nodes(a=[0, 2], b=[1, 3])
    assert shard_holders.beside_shards(experiment).homes.names == ("a", "b")
    with pytest.raises(
        raysim.DataError, match=r"2 of 6 files are missing, train-00001.arrow first; every machine"
    ):
        raysim.run(on(folders["mine"]), out=tmp_path, backend="inprocess")
    with pytest.raises(
        raysim.DataError, match=r"train-0000\d.arrow: lies on other machines, and this one has to read"
    ):
        composed(folders["mine"], server_data={"samples": 40})
    (folders["other"] / "train-00001.arrow").write_bytes(b"short")
    with pytest.raises(raysim.DataError, match="has 5 bytes, the index says"):
        held(folders["other"], experiment.arrays[0].index)
    index = folders["other"] / "shards.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "scale": 2.0}))
    with pytest.raises(raysim.DataError, match="is of other data than where the run was started"):
        held(folders["other"], experiment.arrays[0].index)


def test_all_in_one_place_is_the_same_in_process(whole: Path, tmp_path: Path) -> None:
    whole_run = {**on(whole), "data": {**on(whole)["data"], "store": "shards"}}
    first, second = (
        raysim.run(config, out=tmp_path, name=name, backend="inprocess")
        for name, config in (("shards", whole_run), ("nodes", on(whole)))
    )
    assert first.digest == second.digest
    assert InProcessBackend().homes([1]) == [""]


SCRIPT = textwrap.dedent("""
    import json, os, sys
    from pathlib import Path
    from raysim.backends import ray_connection
    ray_connection.authenticate(os.environ, new_cluster=True)
    from ray.cluster_utils import Cluster
    import raysim

    config, out = json.loads(sys.argv[1]), Path(sys.argv[2])
    os.environ["SHARDS"] = str(out / "mine")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1, env_vars={"SHARDS": str(out / "other")})
    raysim.run(config, name="parted", out=out, address=cluster.address)
    said = []
    def lose(event):
        if event.row and event.round == 0:
            cluster.remove_node(other, allow_graceful=False)
    for name in ("lost", "lacking"):
        try:
            raysim.run({**config, "rounds": 9, "attack": "label_flip"}, name=name, out=out, address=cluster.address, observe=lose)
        except raysim.DataError as error:
            said.append(str(error))
    (out / "said.json").write_text(json.dumps(said))
    cluster.shutdown()
""")


@pytest.mark.ray
def test_two_nodes_that_hold_different_shards(whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Honest clients train in threes: 0, 2, 3; 5, 6, 7; 8, 9, 11. Of each of the last two, one lies on the other node."""
    split(whole, mine="02", other="13")
    attack = {"name": "tests.faulty_methods:TellsWhere", "folder": str(tmp_path)}
    groups = {
        "attack": attack,
        "training": {"clients_per_stack": 3},
        "resources": {"clients_per_actor": 7},  # a call and a host for each node
    }
    expected = raysim.run(on(whole, **groups), name="whole", out=tmp_path, backend="inprocess")
    words = [json.dumps(on("$SHARDS", **groups)), str(tmp_path)]
    subprocess.run([sys.executable, "-c", SCRIPT, *words], check=True, timeout=600)
    parted = RunResult(tmp_path / "parted")
    assert parted.digest == expected.digest
    assert (parted.path / "clients.parquet").read_bytes() == (expected.path / "clients.parquet").read_bytes()
    hosted = {path.name: Path(path.read_text()).name for path in tmp_path.glob("client-*")}
    assert hosted == {"client-1": "mine", "client-4": "other", "client-10": "other"}
    lost, lacking = json.loads((tmp_path / "said.json").read_text())
    assert "train-0000" in lost
    assert "no node that holds it is left" in lost
    assert "2 of 4 shards lie on none of 1 nodes, train-00001.arrow first" in lacking

    monkeypatch.setenv("SHARDS", str(whole))
    resumed = raysim.resume(tmp_path / "lost", backend="inprocess")
    calm = {**on("$SHARDS", **groups), "rounds": 9, "attack": "label_flip"}
    assert resumed.digest == raysim.run(calm, name="calm", out=tmp_path, backend="inprocess").digest
