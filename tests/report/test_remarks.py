"""What is said beside a run's numbers: uploads rejected, clients absent, rates that are undefined, what is assumed."""

from __future__ import annotations

import json

import numpy as np

from raysim.report import remarks

NAN = float("nan")


def rounds(*notes, accuracy=None, clients=24):
    count = len(notes)
    return {
        "round": np.arange(count),
        "clients": np.full(count, clients),
        "notes": np.array([json.dumps(note) if note else "" for note in notes], object),
        "main_accuracy": np.array(accuracy or [0.5] * count),
    }


def test_the_line_of_a_round():
    notes = {"rejected": {"non-finite": 24}, "absent": {"no samples": 3}, "undefined": "why"}
    row = {"clients": 24, "notes": json.dumps(notes)}
    assert remarks.of_round(row) == [
        "24 of 24 uploads rejected: non-finite",
        "3 clients absent: no samples",
        "no accuracy: why",
    ]
    assert remarks.of_round({"clients": 24, "notes": ""}) == []


def test_how_stale_updates_are_is_said_where_rounds_are_asynchronous():
    """4 updates 0.5 behind and 8 of 2: 1.5 on average."""
    row = {"clients": 4, "notes": "", "staleness_mean": 0.5, "staleness_max": 1}
    assert remarks.of_round(row) == ["staleness 0.5, at most 1"]
    table = rounds({}, {}, {}) | {"clients": np.array([4, 8, 0])}
    table |= {"staleness_mean": np.array([0.5, 2.0, NAN]), "staleness_max": np.array([1.0, 3.0, NAN])}
    assert remarks.of_run(table)[0] == "Updates were 1.5 global models behind on average, 3 at most."
    synchronous = {name: np.full(3, NAN) for name in ("staleness_mean", "staleness_max")}
    assert remarks.of_run(rounds({}, {}, {}) | synchronous) == []


def test_a_run_with_nothing_to_remark():
    assert remarks.of_run(rounds({}, {"bases": "3 4"})) == []


def test_a_run_in_which_everything_was_rejected():
    said = remarks.of_run(rounds(*[{"rejected": {"non-finite": 24}}] * 3))
    assert said == [
        "72 of 72 uploads rejected by the engine: non-finite.",
        "In rounds 0-2 no upload was left to judge: the global model stayed, and there are no detection rates.",
    ]


def test_several_reasons_and_rounds():
    said = remarks.of_run(
        rounds(
            {"rejected": {"non-finite": 2, "missing": 1}, "assumed": {"by": "Krum", "malicious": 10, "of": 24, "most": True}},
            {"rejected": {"missing": 1}, "absent": {"no samples": 2}},
            {"undefined": "logits are not finite for 4 of 4 test inputs"},
        )
    )  # fmt: skip
    assert said == [
        "Krum assumes 10 of 24 malicious, the most this rule tolerates.",
        "4 of 72 uploads rejected by the engine: missing (2), non-finite (2).",
        "2 times a client drawn for a round was absent: no samples.",
        "In round 2 accuracy or attack success is undefined: logits are not finite for 4 of 4 test inputs (round 2).",
    ]


def test_a_final_value_that_is_undefined_is_not_taken_from_an_earlier_round():
    undefined = {"undefined": "logits are not finite"}
    table = rounds({}, undefined, accuracy=[0.5, NAN])
    assert np.isnan(remarks.utility(table, "main_accuracy").final)
    assert remarks.utility(table, "main_accuracy").best == 0.5
    assert remarks.utility(rounds(undefined, {}, accuracy=[NAN, 0.25]), "main_accuracy").final == 0.25
    assert remarks.utility(rounds({}, {}, accuracy=[0.5, NAN]), "main_accuracy").final == 0.5
