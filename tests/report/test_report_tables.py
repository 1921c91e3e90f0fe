"""The report's numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.formats import seconds
from raysim.metrics import detection
from raysim.report.finished_run import read_finished_run
from raysim.report.tables import (
    detections,
    flatten,
    ids,
    rejections,
    setting,
    with_titles,
)


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
        (0.0, "0 s"),
        (0.01239, "0.0124 s"),
        (3.2, "3.20 s"),
        (48.76, "48.8 s"),
        (99.96, "100 s"),
        (1234.4, "1,234 s"),
        (float("nan"), "-"),
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
    titles = {"oracle": "oracle (calibration only)", "krum": "krum"}
    assert setting(with_titles({"defense": chosen}, titles), "defense") == words
    assert "calibration" not in setting(with_titles({"defense": chosen}, {}), "defense")
