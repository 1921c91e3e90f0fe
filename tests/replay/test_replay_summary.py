"""Replays side by side: seconds, digests of verdicts, and what equals what."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

import raysim
from raysim.config.schema import Component
from raysim.replay.replay import replay
from raysim.replay.summary import Replayed, comparison, read_replay, verdict_digest
from raysim.runs.directory import RunDirectory
from raysim.studies.replays import Replay, ReplayPlan
from tests import federations

KRUM = Replayed(
    name="krum@1node",
    title="krum@1node",
    nodes=1,
    rounds=2,
    recall=1.0,
    precision=0.5,
    fpr=0.25,
    f1=2 / 3,
    auc_score=float("nan"),
    median_s=0.75,
    first_s=1.5,
    moved_bytes=3 * 2**20,
    verdicts="a" * 64,
    aggregates="b" * 64,
    live="",
)


def test_the_page_by_hand():
    """The median beside the first round; stages longest in all first; what a replay has not is left empty."""
    median = replace(KRUM, name="median", title="median", rounds=1)
    stages = [
        ("krum@1node", "load", 5.0, 5.0, 10.0),
        ("krum@1node", "gram", 0.25, 1.0, 1.25),
        ("median", "sort", float("nan"), 1.0, 1.0),
    ]
    names = ("name", "stage", "median_s", "first_s", "total_s")
    rows = [{"defense": "d", "backend": "ray", **asdict(one)} for one in (KRUM, median)]
    tables = {
        "replays": Replay.tables["replays"].table(rows),
        "stages": Replay.tables["stages"].table([dict(zip(names, row, strict=True)) for row in stages]),
    }
    page = Replay().page(ReplayPlan(run="first", defense="krum"), tables)
    caught, cost, _ = page.sections
    assert caught.splitlines()[2] == (
        "| krum@1node | 1 | 2 | 1.000 | 0.500 | 0.250 | 0.667 | - | 0.7500 | 1.5000 | 3.0 | aaaaaaaa | - | - |"
    )
    assert cost.splitlines()[2:] == [
        "| load | 5.0000 (5.0000) |  |",
        "| gram | 0.2500 (1.0000) |  |",
        "| sort |  | - (1.0000) |",
    ]


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, "krum@1node"),
        ({"verdicts": "d" * 64}, "NOT krum@1node"),
        ({"aggregates": "d" * 64}, "NOT krum@1node"),
        ({"rounds": 3}, "-"),
        ({"name": "median@2nodes", "title": "median@2nodes"}, "-"),
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
    far = {"updates": {"name": "synthetic", "shift": 3.0}}
    config = {**federations.drawn(), **far, "record": {"updates": True}}
    out = tmp_path_factory.mktemp("runs")
    return raysim.run(config, name="live", out=out, backend="inprocess").path


def test_what_a_replay_left_behind_is_read(run_path):
    krum = Component(name="krum", num_byzantine=2)
    again, median = replay(run_path, [krum, Component(name="median")])
    first, stages = read_replay(run_path, again)
    assert first.verdicts == first.live == verdict_digest(run_path, range(3))
    assert (first.nodes, first.rounds, first.recall) == (1, 3, 1.0)
    assert {"load", "gram"} <= set(stages)
    assert read_replay(run_path, median)[0].live == ""
    [part] = replay(run_path, [krum], rounds=(1, 2), suffix="@late")
    late, _ = read_replay(run_path, part)
    assert late.live == ""
    assert late.verdicts == verdict_digest(run_path, [1, 2]) != first.verdicts
    assert late.aggregates != first.aggregates
    assert comparison(first, [first, late]) == "live"
    assert comparison(late, [first, late]) == "-"


def test_another_verdict_has_another_digest(run_path):
    rows = RunDirectory(run_path).read("clients").to_pylist()
    assert len(rows) == 30
    before = verdict_digest(run_path, [0])
    assert before != verdict_digest(run_path, [1])
    assert before == verdict_digest(run_path, [0])
