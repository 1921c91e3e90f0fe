"""The report's numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.metrics import detection
from raysim.report.finished_run import read_finished_run
from raysim.report.tables import (
    detections,
    flatten,
    ids,
    rejections,
    seconds,
    setting,
    stage_times,
    with_titles,
)


def spans(*rows: tuple) -> dict[str, np.ndarray]:
    names = (
        "round",
        "stage",
        "task",
        "wall_s",
        "cpu_s",
        "bytes_in",
        "bytes_out",
        "peak_memory_bytes",
        "retries",
        "bytes_moved",
    )
    return {name: np.array([row[at] for row in rows]) for at, name in enumerate(names)}


def test_stage_times_sum_whole_stages_only():
    train, gram = stage_times(
        spans(
            (0, "gram", -1, 1.0, 4.0, 10, 1, 500, 0, 5.0),
            (0, "gram", 0, 99.0, 9.0, 9, 9, 999, 9, 9.0),
            (0, "gram", 1, 99.0, 9.0, 9, 9, 999, 9, 9.0),
            (0, "train", -1, 3.0, 6.0, 0, 7, 100, 1, 0.0),
            (2, "train", -1, 5.0, 6.0, 0, 7, 300, 0, 0.0),
            (2, "gram", -1, 2.0, 4.0, 30, 1, 200, 2, 6.0),
            (2, "gram", -1, 3.0, 4.0, 30, 1, 200, 2, 0.0),
        )
    )
    assert (train.stage, train.group, train.rounds, train.wall_s, train.mean_s) == (
        "train",
        "training",
        2,
        8.0,
        4.0,
    )
    assert (train.bytes_out, train.peak_memory_bytes, train.tasks, train.retries) == (14, 300, 0, 1)
    assert (gram.stage, gram.group, gram.rounds, gram.wall_s, gram.mean_s) == ("gram", "server", 2, 6.0, 3.0)
    assert (gram.cpu_s, gram.bytes_in, gram.peak_memory_bytes, gram.tasks, gram.retries) == (
        12.0,
        70,
        500,
        2,
        4,
    )
    assert (train.bytes_moved, gram.bytes_moved) == (0.0, 11.0)


def test_stages_of_equal_time_are_in_name_order():
    rows = [(0, stage, -1, 1.0, 1.0, 0, 0, 0, 0, 0.0) for stage in ("vote", "cam", "evaluate")]
    assert [time.stage for time in stage_times(spans(*rows))] == ["cam", "evaluate", "vote"]
    assert [time.group for time in stage_times(spans(*rows))] == ["server", "evaluation", "server"]


def test_detections_are_the_recorded_rates(write_run):
    run = read_finished_run(write_run(rounds=3, maps=None))
    first = {name: column[run.clients["round"] == 0] for name, column in run.clients.items()}
    recorded, expected = detections(run.rounds)[0], detection(first["malicious"], first["flagged"] == 1)
    assert (recorded.recall, recorded.f1, recorded.auc_hard) == (
        expected.recall,
        expected.f1,
        expected.auc_hard,
    )
    assert len(detections(run.rounds)) == 3


def test_rejections_count_reasons():
    reasons = np.array(["", "non-finite", "", "lost", "non-finite"], dtype=object)
    assert rejections({"reason": reasons}) == {"lost": 1, "non-finite": 2}
    assert rejections({"reason": np.array([], dtype=object)}) == {}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [([], "none"), ([4], "4"), ([1, 2], "1, 2"), ([3, 1, 2, 2, 7, 9, 10, 11, 12], "1-3, 7, 9-12")],
)
def test_ids_in_words(numbers, words):
    assert ids(numbers) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "none"),
        ("median", "median"),
        ({"name": "median"}, "median"),
        ({"name": "krum", "num_byzantine": 2, "m": None}, "krum (num_byzantine 2)"),
        (
            {"name": "cifar10", "root": "/data", "download": False, "partition": {"name": "iid"}},
            "cifar10 (partition iid)",
        ),
        ([{"name": "clip_norm", "bound": 3.0}, {"name": "krum"}], "clip_norm (bound 3.0), then krum"),
        ({"name": "pgd", "layers": [1, 2]}, "pgd (layers 1 2)"),
        ({"name": "dba", "schedule": {"start": 0, "stop": None, "every": 1}}, "dba"),
        (
            {"name": "dba", "schedule": {"start": 5, "stop": None, "every": 2}},
            "dba (schedule start 5, every 2)",
        ),
    ],
)
def test_setting_in_one_line(value, words):
    assert setting({"defense": value}, "defense") == words
    assert setting({}, "defense") == "none"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0.00 s"),
        (0.01239, "0.0124 s"),
        (3.2, "3.20 s"),
        (48.76, "48.8 s"),
        (99.96, "100 s"),
        (1234.4, "1,234 s"),
    ],
)
def test_seconds_in_words(value, words):
    assert seconds(value) == words


def test_flatten():
    value = {
        "commit": None,
        "versions": {"numpy": "2"},
        "nodes": [{"cpus": 4, "gpus": []}, {"cpus": 8}],
        "tags": ["a", "b"],
    }
    assert list(flatten(value)) == [
        ("commit", "none"),
        ("versions.numpy", "2"),
        ("nodes[0].cpus", "4"),
        ("nodes[0].gpus", "none"),
        ("nodes[1].cpus", "8"),
        ("tags", "a, b"),
    ]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (None, "none"),
        ("oracle", "oracle (calibration only)"),
        ({"name": "krum", "num_byzantine": 2}, "krum (num_byzantine 2)"),
        ([{"name": "clip_norm"}, {"name": "oracle"}], "clip_norm, then oracle (calibration only)"),
    ],
)
def test_a_defense_that_is_shown_the_truth_is_named_so(chosen, words):
    assert setting(with_titles({"defense": chosen}), "defense") == words
