"""What a preset's run is measured by: from the tables of a finished run to the numbers a paper prints.

A measure is named by a key:

    recall, precision, fpr, acc, f1, auc_hard     mean over the rounds that are judged and define it
    far@R, mar@R                                  PDRR's alarm rates in round R, counted from 1
    q_from@R, q_to@R                              the honest clients' highest score in that round, the attackers' lowest
    main_accuracy, attack_success_rate            in the last round that measured it
    target_confidence
      with _best, _last_20                        the highest, and the mean of the last 20 rounds
    score_malicious, score_benign                 mean score of attackers, and of the others
    round_s, defense_s, defense_first_s           seconds a round, those of the defense, and in its first round
                                                  (raysim.report.stage_costs)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from raysim.metrics import summarise
from raysim.presets import Preset
from raysim.report.finished_run import Columns, read_columns
from raysim.report.stage_costs import KEEPING, owner_cost, round_cost

RATES = ("recall", "precision", "fpr", "acc", "f1", "auc_hard")
UTILITIES = ("main_accuracy", "attack_success_rate", "target_confidence")
SUMMARIES = {"": "final", "_best": "best", "_last_20": "last_20_mean"}
LABELS: Mapping[str, str] = {
    "recall": "recall", "precision": "precision", "fpr": "FPR", "acc": "ACC", "f1": "F1", "auc_hard": "AUC",
    "main_accuracy": "accuracy %", "main_accuracy_best": "best accuracy %",
    "main_accuracy_last_20": "last-20 accuracy %",
    "attack_success_rate": "ASR %", "attack_success_rate_best": "best ASR %",
    "attack_success_rate_last_20": "last-20 ASR %", "target_confidence": "confidence %",
    "score_malicious": "score, attackers", "score_benign": "score, benign",
    "round_s": "s a round", "defense_s": "defense s a round", "defense_first_s": "its first round, s",
}  # fmt: skip
IN_A_ROUND: Mapping[str, str] = {"far": "FAR", "mar": "MAR", "q_from": "q from", "q_to": "q to"}
"""Measures of one round -> their headings."""


def label(key: str) -> str:
    """The heading of a measure.

    >>> label("far@20")
    'FAR, round 20'
    """
    rate, _, number = key.partition("@")
    return f"{IN_A_ROUND[rate]}, round {number}" if number else LABELS[key]


def is_share(key: str) -> bool:
    """Whether a measure is printed in percent."""
    return key.startswith(UTILITIES)


def measure(path: Path, preset: Preset, keys: tuple[str, ...]) -> dict[str, float]:
    """The measures of one finished run; NaN if it does not define one.

    Round R of far@R and its like is one of the paper's run; in a shorter one it is the round as far into it.

    A defense that flags whoever scores at least q flags exactly the attackers where q_from < q <= q_to, and for no q where
    q_from is the higher.
    """
    rounds = read_columns(path, "rounds")
    order = np.argsort(rounds["round"])
    rounds = {name: column[order] for name, column in rounds.items()}
    clients, spans = read_columns(path, "clients"), read_columns(path, "spans")
    return {key: _one(key, preset, rounds, clients, spans) for key in keys}


def _one(key: str, preset: Preset, rounds: Columns, clients: Columns, spans: Columns) -> float:
    count = len(rounds["round"])
    if key in RATES:
        judged = (rounds["round"] + 1) % preset.interval == 0
        return _mean(rounds[key][judged])
    rate, _, number = key.partition("@")
    if number:
        place = max(1, round(int(number) * count / preset.rounds)) - 1
        if rate in ("q_from", "q_to"):
            return _end(clients, rounds["round"][place], attackers=rate == "q_to")
        return float(rounds["fpr"][place] if rate == "far" else 1 - rounds["recall"][place])
    for utility in UTILITIES:
        if key.startswith(utility):
            return float(getattr(summarise(rounds[utility]), SUMMARIES[key.removeprefix(utility)]))
    if key in ("score_malicious", "score_benign"):
        return _mean(clients["score"][clients["malicious"] == (key == "score_malicious")])
    if key == "round_s":
        return round_cost(spans, leave_out=KEEPING).median_s
    if key in ("defense_s", "defense_first_s"):
        cost = owner_cost(spans, "defense")
        return cost.median_s if key == "defense_s" else cost.first_s
    raise KeyError(key)


def _end(clients: Columns, round: int, *, attackers: bool) -> float:
    """The attackers' lowest score of a round, or the highest of all others."""
    of_round = (clients["round"] == round) & (clients["malicious"] == attackers)
    scores = clients["score"][of_round & ~np.isnan(clients["score"])]
    if not scores.size:
        return float("nan")
    return float(scores.min() if attackers else scores.max())


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
