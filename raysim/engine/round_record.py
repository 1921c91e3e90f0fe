"""A round's rows for the tables: the verdict scored against the truth the defense never saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from raysim.backends.base import Backend
from raysim.defense import Verdict, assumption
from raysim.engine.campaigns import among
from raysim.engine.cohort import Arrivals
from raysim.engine.experiment import Experiment, RoundRecord, Uploads, active_attackers
from raysim.engine.recording import Recording
from raysim.metrics import UNJUDGED, Measure, detection
from raysim.round_notes import ABSENT, ASSUMED, REJECTED, UNDEFINED, as_text, notes_of
from raysim.trees import Row


def measured(measures: Sequence[Measure]) -> dict[str, float]:
    """The columns of the table of rounds that `evaluate` fills; NaN if it did not."""
    nan = float("nan")
    clean, triggered = measures[:1], measures[1:]
    return {
        "main_accuracy": clean[0].accuracy if clean else nan,
        "main_loss": clean[0].loss if clean else nan,
        "attack_success_rate": float(np.mean([m.accuracy for m in triggered])) if triggered else nan,
        "target_confidence": float(np.mean([m.confidence for m in triggered])) if triggered else nan,
    }


def evaluated(row: Row, measures: Sequence[Measure]) -> Row:
    """The row of a round with what evaluation found, and a note if its rates are undefined."""
    row = {**row, **measured(measures)}
    kinds = ["test", *["triggered"] * (len(measures) - 1)]
    found = [
        f"{m.unpredicted} of {m.samples} {kind} inputs"
        for kind, m in zip(kinds, measures, strict=False)
        if m.unpredicted
    ]
    if not found:
        return row
    why = f"logits are not finite for {', '.join(found)}"
    return {**row, "notes": as_text({**notes_of(row["notes"]), UNDEFINED: why})}


def virtual_time(arrivals: Arrivals, client: int) -> Row:
    """The columns of the table of clients that say how long a client takes on its device, and how stale its update is."""
    download, compute, upload = arrivals.parts_of(client) or (None, None, None)
    return {
        "virtual_download_s": download,
        "virtual_compute_s": compute,
        "virtual_upload_s": upload,
        "staleness": None if arrivals.versions is None else int(arrivals.staleness_of(np.array([client]))[0]),
    }


def staleness(arrivals: Arrivals, clients: np.ndarray) -> Row:
    """The columns of the table of rounds that say how stale the uploads of these clients are."""
    if arrivals.versions is None or not len(clients):
        return {"staleness_mean": None, "staleness_max": None}
    behind = arrivals.staleness_of(clients)
    return {"staleness_mean": float(behind.mean()), "staleness_max": int(behind.max())}


def record_round(
    experiment: Experiment,
    backend: Backend,
    arrivals: Arrivals,
    uploads: Uploads,
    judged: Recording,
    verdict: Verdict,
    notes: Mapping[str, object],
) -> RoundRecord:
    """The round's rows for the tables, with the verdict scored against the truth; not evaluated yet."""
    round, updates, truth = judged.round, judged.updates, judged.truth
    notes = {**notes, **({"clients": uploads.notes} if uploads.notes else {})}
    if assumed := assumption(experiment.defense, int(judged.usable.sum())):
        notes[ASSUMED] = assumed
    reasons = {**arrivals.late, **uploads.reasons}
    received = set(updates.client_ids.tolist())
    for note, here in ((REJECTED, True), (ABSENT, False)):
        counts = Counter(why for client, why in reasons.items() if (client in received) is here)
        notes.update({note: dict(counts)} if counts else {})
    row: Row = {
        "round": round,
        "clients": updates.num_clients,
        "malicious": int(truth.sum()),
        "flagged": 0 if verdict.flagged is None else int(verdict.flagged.sum()),
        "train_loss": uploads.train_loss,
        "threshold": verdict.threshold,
        "virtual_start_s": arrivals.start_s,
        "virtual_s": arrivals.duration_s,
        **staleness(arrivals, updates.client_ids),
        **measured([]),
        "notes": as_text(notes),
    }
    if verdict.weights is not None:
        row["accepted"] = int(np.count_nonzero(verdict.weights))
    else:
        row["accepted"] = updates.num_clients - row["flagged"]
    if judged.usable.any():
        row.update(asdict(detection(truth, verdict.flagged, verdict.scores)))
    else:
        row.update(asdict(UNJUDGED))
    clients: list[Row] = [
        {
            "round": round,
            "client": int(client),
            "malicious": bool(truth[place]),
            "flagged": None if verdict.flagged is None else bool(verdict.flagged[place]),
            "score": None if verdict.scores is None else float(verdict.scores[place]),
            "weight": None if verdict.weights is None else float(verdict.weights[place]),
            "num_examples": int(updates.num_examples[place]),
            "reason": reasons.get(int(client), ""),
            **virtual_time(arrivals, int(client)),
        }
        for place, client in enumerate(updates.client_ids)
    ]
    lost = np.setdiff1d(np.array(sorted(reasons), np.int64), updates.client_ids)
    attacking = among(lost, active_attackers(experiment, round))
    clients += [
        {
            "round": round,
            "client": int(client),
            "malicious": bool(malicious),
            "flagged": None,
            "score": None,
            "weight": None,
            "num_examples": 0,
            "reason": reasons[int(client)],
            **virtual_time(arrivals, int(client)),
        }
        for client, malicious in zip(lost, attacking, strict=True)
    ]
    keep = experiment.config.record.heat_maps and round % experiment.config.record.every == 0
    artifacts = dict(verdict.artifacts) if keep else {}
    return RoundRecord(round, row, clients, artifacts, backend.telemetry.drain(), judged)
