"""What a run writes down of the devices that its clients train on, and what it refuses when it goes on."""

from __future__ import annotations

import json

import pytest

import raysim
from raysim import RunError
from raysim.config.schema import ExperimentConfig
from raysim.runs.client_places import common_places, remarks


def test_places_of_one_kind_are_counted():
    places = [
        {"node": "a", "pid": 1, "gpus": [0]},
        {"node": "a", "pid": 2, "gpus": [0]},
        {"node": "b", "pid": 3, "gpus": []},
    ]
    counted = [(place["node"], list(place["gpus"]), place["actors"]) for place in common_places(places)]
    assert counted == [("a", [0], 2), ("b", [], 1)]
    assert all("pid" not in place for place in common_places(places))


def test_why_a_gpu_is_not_used_is_said_once_and_not_where_a_cpu_was_asked_for():
    places = [{"node": "a", "reason": "torch finds no CUDA device"}] * 2
    (remark,) = remarks(ExperimentConfig(), places)
    assert (
        remark
        == "node a has been assigned GPUs, but torch finds no CUDA device there: its clients train on CPUs"
    )
    assert remarks(ExperimentConfig(resources={"device": "cpu"}), places) == []


def test_a_run_does_not_go_on_with_another_kind_of_device(tiny, tmp_path):
    path = raysim.run({**tiny, "rounds": 1}, name="first", out=tmp_path, backend="inprocess").path
    about = json.loads((path / "environment.json").read_text())
    assert [place["device"] for place in about["clients_train_on"]] == ["cpu"]
    about["clients_train_on"][0]["device"] = "cuda:0"
    (path / "environment.json").write_text(json.dumps(about))
    with pytest.raises(RunError, match="rounds 0 to 0 trained on cuda, and here clients would train on cpu"):
        raysim.resume(path, rounds=2, backend="inprocess")
