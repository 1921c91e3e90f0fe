"""A round's rows for the tables: the verdict scored against the truth the defense never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from raysim.backends.base import Backend
from raysim.defense import Verdict
from raysim.engine.experiment import Experiment, RoundRecord, Uploads, active_attackers
from raysim.engine.recording import Recording
from raysim.metrics import UNJUDGED, detection


def measured(measures: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """The columns of the table of rounds that `evaluate` fills; NaN where it did not."""
    nan = float("nan")
    clean, triggered = (*measures[:1], (nan, nan, nan))[0], measures[1:]
    return {
        "main_accuracy": clean[0],
        "main_loss": clean[1],
        "attack_success_rate": float(np.mean([m[0] for m in triggered])) if triggered else nan,
        "target_confidence": float(np.mean([m[2] for m in triggered])) if triggered else nan,
    }


def record_round(
    experiment: Experiment,
    backend: Backend,
    uploads: Uploads,
    judged: Recording,
    verdict: Verdict,
    notes: dict[str, Any],
) -> RoundRecord:
    """The round's rows for the tables, with the verdict scored against the truth; not evaluated yet."""
    round, updates, truth = judged.round, judged.updates, judged.truth
    notes = {**notes, **({"clients": uploads.notes} if uploads.notes else {})}
    row: dict[str, Any] = {
        "round": round,
        "clients": updates.num_clients,
        "malicious": int(truth.sum()),
        "flagged": 0 if verdict.flagged is None else int(verdict.flagged.sum()),
        "train_loss": uploads.train_loss,
        "threshold": verdict.threshold,
        **measured([]),
        "notes": json.dumps(notes, default=float, sort_keys=True) if notes else "",
    }
    if verdict.weights is not None:
        row["accepted"] = int(np.count_nonzero(verdict.weights))
    else:
        row["accepted"] = updates.num_clients - row["flagged"]
    if judged.usable.any():
        row.update(asdict(detection(truth, verdict.flagged, verdict.scores)))
    else:
        row.update(asdict(UNJUDGED))
    clients = [
        {
            "round": round,
            "client": int(client),
            "malicious": bool(truth[place]),
            "flagged": None if verdict.flagged is None else bool(verdict.flagged[place]),
            "score": None if verdict.scores is None else float(verdict.scores[place]),
            "weight": None if verdict.weights is None else float(verdict.weights[place]),
            "num_examples": int(updates.num_examples[place]),
            "reason": uploads.reasons.get(int(client), ""),
        }
        for place, client in enumerate(updates.client_ids)
    ]
    lost = np.setdiff1d(np.array(sorted(uploads.reasons), np.int64), updates.client_ids)
    attacking = np.isin(lost, active_attackers(experiment, round))
    clients += [
        {
            "round": round,
            "client": int(client),
            "malicious": bool(malicious),
            "flagged": None,
            "score": None,
            "weight": None,
            "num_examples": 0,
            "reason": uploads.reasons[int(client)],
        }
        for client, malicious in zip(lost, attacking, strict=True)
    ]
    keep = experiment.config.record.heat_maps and round % experiment.config.record.every == 0
    artifacts = dict(verdict.artifacts) if keep else {}
    return RoundRecord(round, row, clients, artifacts, backend.telemetry.drain(), judged)
