"""Runs on shards: the same bytes as runs that hold their data, in process and on Ray; refusals before the first round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import raysim
from raysim.cli.main import app
from raysim.composition.compose import compose
from raysim.composition.sharding import write_data
from raysim.data.shards import Column
from raysim.runs.runner import run

DEALT: dict[str, Any] = {
    "rounds": 2,
    "population": {"clients": 9, "cohort": 5, "malicious": 2, "placement": "random"},
    "data": {"name": "digits", "limit": 200, "partition": {"name": "dirichlet", "alpha": 0.5}},
    "attack": {"name": "label_flip"},
    "defense": {"name": "multi_krum", "num_byzantine": 1},
    "server_data": {"samples": 0},
}


def on_shards(folder: Path, store: str = "shards", **groups: Any) -> dict[str, Any]:
    data = {"name": "shards", "root": str(folder), "store": store, "partition": "natural"}
    return {**DEALT, "data": data, **groups}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clients of DEALT, in shards of at most ten samples."""
    place = tmp_path_factory.mktemp("shards") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(raysim.write_shards.__kwdefaults__, "shard_bytes", 10 * 64 * 4)
        index = write_data(raysim.ExperimentConfig.from_mapping(DEALT), place)
    assert len(index.train) > 5
    return place


def test_shards_of_a_partition_give_the_bytes_of_that_partition(folder: Path, tmp_path: Path) -> None:
    dealt = run(DEALT, out=tmp_path, name="dealt", backend="inprocess")
    sharded = run(on_shards(folder), out=tmp_path, name="sharded", backend="inprocess")
    assert sharded.digest == dealt.digest
    assert sharded.frame("clients").equals(dealt.frame("clients"))


@pytest.mark.parametrize("partition", ["natural", {"name": "natural", "subsets": True}, "iid"])
def test_sharded_or_whole_are_equal(partition: Any, folder: Path, tmp_path: Path) -> None:
    """Also with samples set aside for the server, and with partitions that look at every sample."""
    digests = set()
    for store in ("shards", "memory"):
        config = on_shards(folder, store, server_data={"samples": 15}, population={"clients": 6, "cohort": 5})
        config["data"]["partition"] = partition
        config["attack"] = None
        digests.add(run(config, out=tmp_path, name=store, backend="inprocess").digest)
    assert len(digests) == 1


def test_nothing_of_the_training_set_is_loaded_or_sent(folder: Path) -> None:
    experiment = compose(raysim.ExperimentConfig.from_mapping(on_shards(folder)))
    images, labels, indices, offsets, *_ = experiment.arrays
    assert isinstance(images, Column)
    assert isinstance(labels, Column)
    assert [thing.nbytes for thing in (images, labels, indices, offsets)] == [0, 0, 0, 8 * 10]


def test_a_host_asks_the_disk_for_all_its_clients_before_it_reads_the_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the five clients of a round, in two calls."""
    done: list[str] = []
    expect, read = Column.expect, Column.__getitem__
    monkeypatch.setattr(Column, "expect", lambda self, rows: done.append("expect") or expect(self, rows))
    monkeypatch.setattr(Column, "__getitem__", lambda self, rows: done.append("read") or read(self, rows))
    config = {**on_shards(folder), "rounds": 1, "attack": None, "training": {"clients_per_stack": 1}}
    run(config, out=tmp_path, name="run", backend="inprocess")
    held = sum(
        row["num_examples"] > 0 for row in raysim.RunResult(tmp_path / "run").table("clients").to_pylist()
    )
    assert done.count("expect") == 2 * 5  # inputs and labels
    assert done.count("read") == 2 * held
    assert done.index("read") == 2 * 3  # the first call has three of them


def test_a_run_remembers_which_data_it_had(folder: Path, tmp_path: Path) -> None:
    first = run({**on_shards(folder), "rounds": 1}, out=tmp_path, name="run", backend="inprocess")
    digest = raysim.load_config(first.path / "config.yaml").data.options["digest"]
    config = on_shards(folder)
    config["data"]["digest"] = digest
    assert compose(raysim.ExperimentConfig.from_mapping(config)).config.data.options["digest"] == digest
    config["data"]["digest"] = "0" * 16
    with pytest.raises(
        raysim.ConfigError, match="data: must be what the run was started with; its digest differs"
    ):
        compose(raysim.ExperimentConfig.from_mapping(config))


class Words(nn.Module):
    """The mean of the words' embeddings, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(300, 4)
        self.head = nn.Linear(4, num_classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(tokens))


def test_tokens_in_two_bytes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    tokens, labels = draw.integers(0, 300, (40, 6)).astype(np.uint16), draw.integers(0, 3, 40)
    raysim.write_shards(tmp_path / "text", [(tokens, labels, np.full(10, 4))], (tokens, labels), classes=3)
    whole, sharded = (
        raysim.run(
            on_shards(tmp_path / "text", store), model=Words, out=tmp_path, name=store, backend="inprocess"
        )
        for store in ("memory", "shards")
    )
    assert whole.digest == sharded.digest


def test_on_ray_they_are_equal_and_a_host_without_its_shards_is_refused(
    folder: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_shards(folder, server_data={"samples": 15})
    here = run(config, out=tmp_path, name="here", backend="inprocess")
    two_hosts, one_host = ({**config, "resources": {"clients_per_actor": count}} for count in (3, 5))
    there = run(two_hosts, out=tmp_path, name="there", backend="ray")
    assert there.digest == here.digest

    def moved(self: Column) -> tuple[type[Column], tuple[Any, ...]]:
        """What the workers are sent names a folder that they do not have."""
        return Column, (tmp_path / "elsewhere", self.index, self.name)

    monkeypatch.setattr(Column, "__reduce__", moved)
    with pytest.raises(
        raysim.DataError, match=r"node \w+: .*elsewhere: .* files are missing.* every machine that hosts"
    ):
        run(one_host, out=tmp_path, name="lacking", backend="ray")
    assert not list((tmp_path / "lacking").glob("parts/*"))


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    words = ["data.limit=50", "population.clients=4", "--out", str(tmp_path / "four")]
    done = CliRunner().invoke(app, ["data", "shard", *words])
    assert done.exit_code == 0, done.output
    assert "4 clients, 50 training samples of float32 1x8x8, 1 shards" in done.stdout
    again = CliRunner().invoke(app, ["data", "check", str(tmp_path / "four")])
    assert again.stdout == done.stdout
    with (tmp_path / "four" / "test.arrow").open("r+b") as file:
        file.seek(500)
        file.write(b"\x07")
    found = CliRunner().invoke(app, ["data", "check", str(tmp_path / "four")])
    assert found.exit_code == 2
    assert "test.arrow: not what was written" in found.stderr
