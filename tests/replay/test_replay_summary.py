"""Replays side by side: seconds, digests of verdicts, and what equals what."""

from __future__ import annotations

from dataclasses import replace

import pytest

import raysim
from raysim.config.schema import Component
from raysim.metrics import Detection
from raysim.replay.replay import replay
from raysim.replay.summary import Replayed, comparison, read_replay, tables, verdict_digest
from raysim.report.stage_costs import cost
from raysim.runs.directory import RunDirectory

RATES = Detection(1.0, 0.5, 0.25, 0.8, 2 / 3, 0.875, float("nan"))
KRUM = Replayed(
    name="krum@1node",
    nodes=1,
    rounds=2,
    detection=RATES,
    stages={"load": cost([5.0, 5.0]), "gram": cost([1.0, 0.25]), "combine": cost([0.5, 0.5])},
    cost=cost([1.5, 0.75]),
    moved=3 * 2**20,
    verdicts="a" * 64,
    aggregates=("b", "c"),
    live="",
)


def test_the_median_stands_beside_the_first_round():
    (headings, [row]), (stages, seconds) = tables([KRUM])
    named = dict(zip(headings, row, strict=True))
    assert (named["replay"], named["nodes"], named["rounds"]) == ("krum@1node", "1", "2")
    assert (named["recall"], named["precision"], named["FPR"], named["AUC, scores"]) == (
        "1.000",
        "0.500",
        "0.250",
        "-",
    )
    assert (named["s a round"], named["first round"]) == ("0.7500", "1.5000")
    assert (named["MiB moved"], named["verdicts"]) == ("3.0", "aaaaaaaa")
    assert stages == ["s a round (first)", "krum@1node"]
    assert seconds == [
        ["load", "5.0000 (5.0000)"],
        ["gram", "0.2500 (1.0000)"],
        ["combine", "0.5000 (0.5000)"],
    ]


def test_stages_that_a_replay_has_not_are_left_empty():
    median = replace(KRUM, name="median", stages={"sort": cost([1.0])})
    _, (headings, seconds) = tables([KRUM, median])
    assert headings == ["s a round (first)", "krum@1node", "median"]
    assert ["sort", "", "- (1.0000)"] in seconds
    assert ["gram", "0.2500 (1.0000)", ""] in seconds


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, "krum@1node"),
        ({"verdicts": "d" * 64}, "NOT krum@1node"),
        ({"aggregates": ("b", "d")}, "NOT krum@1node"),
        ({"rounds": 3}, "-"),
        ({"name": "median@2nodes"}, "-"),
        ({"live": "a" * 64}, "live, krum@1node"),
        ({"live": "d" * 64}, "NOT live, krum@1node"),
    ],
)
def test_what_verdicts_are_compared_with(changes, equal):
    other = replace(KRUM, **{"name": "krum@2nodes", **changes})
    assert comparison(other, [KRUM, other]) == equal
    assert comparison(KRUM, [KRUM, other]) == "-"


@pytest.fixture(scope="module")
def run_path(tmp_path_factory):
    config = {
        "rounds": 3,
        "population": {"clients": 10, "malicious": 2},
        "updates": {"name": "synthetic", "shift": 3.0},
        "defense": {"name": "krum", "num_byzantine": 2},
        "server_data": {"samples": 20},
        "record": {"updates": True},
    }
    out = tmp_path_factory.mktemp("runs")
    return raysim.run(config, name="live", out=out, backend="inprocess").path


def test_the_summary_of_a_runs_replays(run_path):
    krum = Component(name="krum", num_byzantine=2)
    again, median = replay(run_path, [krum, Component(name="median")])
    first = read_replay(run_path, again)
    assert first.verdicts == first.live == verdict_digest(run_path, range(3))
    assert (first.nodes, first.rounds, first.detection.recall) == (1, 3, 1.0)
    assert {"load", "gram"} <= set(first.stages)
    own = [name for name in first.stages if name != "load"]
    assert first.cost.total_s == pytest.approx(sum(first.stages[name].total_s for name in own))
    assert len(set(first.aggregates)) == 3
    assert read_replay(run_path, median).live == ""
    [part] = replay(run_path, [krum], rounds=(1, 2), suffix="@late")
    assert read_replay(run_path, part).live == ""
    assert read_replay(run_path, part).verdicts == verdict_digest(run_path, [1, 2]) != first.verdicts
    summary = (run_path / "replays" / "summary.md").read_text()
    [caught, _] = summary.split("| s a round (first) | krum |")
    ends = {
        line.split(" | ")[0]: line.split(" | ")[-3:-1] for line in caught.splitlines() if line[:2] == "| "
    }
    assert ends["| krum"] == [first.verdicts[:8], "live"]
    assert ends["| median"][1] == ends["| krum@late"][1] == "-"


def test_another_verdict_has_another_digest(run_path):
    rows = RunDirectory(run_path).read("clients").to_pylist()
    assert len(rows) == 30
    before = verdict_digest(run_path, [0])
    assert before != verdict_digest(run_path, [1])
    assert before == verdict_digest(run_path, [0])
