"""Measures of a finished run, on tables whose numbers are known."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.presets.preset import Preset
from raysim.runs.directory import schema
from raysim.studies.papers.measures import is_share, label, measure

NAN = float("nan")


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Four rounds: recall 0, 1, .5, undefined; accuracies .1, .4, .3, .2; two clients, the second an attacker."""
    recalls, accuracies = (0.0, 1.0, 0.5, NAN), (0.1, 0.4, 0.3, 0.2)
    rounds = [
        dict.fromkeys(schema("rounds").names, 0)
        | {"round": t, "recall": recall, "fpr": 0.1 * t, "main_accuracy": accuracy, "notes": ""}
        | {"attack_success_rate": NAN, "target_confidence": NAN}
        for t, (recall, accuracy) in enumerate(zip(recalls, accuracies, strict=True))
    ]
    clients = [
        {"round": t, "client": i, "malicious": i == 1, "score": 2.0 * t if i else 0.5, "num_examples": 1}
        | {"reason": ""}
        for t in range(4)
        for i in range(2)
    ]
    stages = {"train": 3.0, "cam": 1.0, "vote": 0.5, "checkpoint": 9.0}
    owners = {"train": "client", "checkpoint": "engine"}
    spans = [
        dict.fromkeys(schema("spans").names, 0)
        | {"round": t, "stage": stage, "task": -1, "node": "here", "wall_s": wall if t else 50.0}
        | {"owner": owners.get(stage, "defense"), "device": "cpu", "peak_gpu_bytes": None}
        for t in range(4)
        for stage, wall in stages.items()
    ]
    for name, rows in (("rounds", rounds[::-1]), ("clients", clients), ("spans", spans)):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema(name)), tmp_path / f"{name}.parquet")
    return tmp_path


def preset(interval: int = 1, rounds: int = 4) -> Preset:
    return Preset("paper/table1-a", "", {"rounds": rounds}, {}, (), interval=interval)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("recall", 0.5),
        ("fpr", 0.15),
        ("main_accuracy", 0.2),
        ("main_accuracy_best", 0.4),
        ("main_accuracy_last_20", 0.25),
        ("far@1", 0.0),
        ("far@4", 0.3),
        ("mar@3", 0.5),
        ("score_malicious", 3.0),
        ("score_benign", 0.5),
        ("round_s", 4.5),
        ("defense_s", 1.5),
        ("defense_first_s", 100.0),
        ("q_from@4", 0.5),
        ("q_to@4", 6.0),
    ],
)
def test_each_measure(finished, key, value):
    assert measure(finished, preset(), (key,)) == {key: pytest.approx(value)}


def test_rates_of_voting_defenses_count_in_rounds_of_a_vote_only(finished):
    assert measure(finished, preset(interval=2), ("recall", "fpr")) == {
        "recall": 1.0, "fpr": pytest.approx((0.1 + 0.3) / 2),
    }  # fmt: skip


def test_a_round_of_the_paper_is_as_far_into_a_shorter_run(finished):
    longer = preset(rounds=100)
    measured = measure(finished, longer, ("far@1", "far@50", "far@100"))
    assert measured == {"far@1": 0.0, "far@50": pytest.approx(0.1), "far@100": pytest.approx(0.3)}


def test_what_a_run_does_not_define_is_not_a_number(finished):
    measured = measure(finished, preset(), ("attack_success_rate", "attack_success_rate_best", "mar@4"))
    assert all(math.isnan(value) for value in measured.values())


def test_an_unknown_measure_is_refused(finished):
    with pytest.raises(KeyError, match="beauty"):
        measure(finished, preset(), ("beauty",))


def test_labels_tell_percent_from_rates():
    assert (label("mar@50"), label("auc_hard")) == ("MAR, round 50", "AUC")
    assert label("q_to@1") == "q to, round 1"
    assert is_share("attack_success_rate_best")
    assert not is_share("recall")
