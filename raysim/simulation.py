"""One federated experiment, round by round.

`run_round` is the story: draw a cohort, publish the global model, train, let the attacker craft, judge,
aggregate, evaluate, score the verdict against the truth the defense never saw. `rounds` repeats it from any
state, so that a run in one go and a run that was resumed do the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raysim import rng
from raysim.backend import Backend, Reference, located
from raysim.client import ClientHost, RoundOrder, UploadMeta
from raysim.context import State
from raysim.crafting import let_attackers_craft
from raysim.defense import Verdict, expand
from raysim.errors import LostWork, RunError
from raysim.experiment import Experiment, RoundRecord, RunState, Uploads, active_attackers, round_context
from raysim.metrics import detection
from raysim.recording import Recording
from raysim.updates import RowBlock, Updates

LOST_ROUNDS = 3
"""How often one round is done again when results were lost with a node."""

UPLOAD_BYTES = 2**28
"""A host trains at most this many bytes of rows in one call."""


def start(experiment: Experiment, backend: Backend) -> None:
    """Bring up the hosts that train clients."""
    backend.start_clients(ClientHost, (experiment.plan, *experiment.arrays))


def initial_state(experiment: Experiment, backend: Backend) -> RunState:
    """The state before round 0."""
    state = RunState(0, experiment.initial, None, {}, ())
    published = backend.put(experiment.initial)
    return replace(
        state,
        defense=experiment.defense.init(round_context(experiment, backend, state, published, "defense")),
        attacks=tuple(
            campaign.attack.init(round_context(experiment, backend, state, published, f"attack {number}"))
            for number, campaign in enumerate(experiment.plan.campaigns)
        ),
    )


def rounds(
    experiment: Experiment, backend: Backend, state: RunState
) -> Iterator[tuple[RunState, RoundRecord]]:
    """The remaining rounds, one after the other."""
    previous: Reference = None if state.previous_vector is None else backend.put(state.previous_vector)
    while state.round < experiment.config.rounds:
        number = state.round
        published = backend.put(state.global_vector)
        try:
            state, record = _again_if_lost(experiment, backend, state, published, previous)
        except RunError as error:
            raise error.located(round=number) from error
        yield state, record
        previous = published


def _again_if_lost(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference, previous: Reference
) -> tuple[RunState, RoundRecord]:
    """run_round, done again when results were lost with a node; the spans of lost attempts are kept."""
    for _ in range(LOST_ROUNDS):
        try:
            return run_round(experiment, backend, state, published, previous)
        except LostWork:
            continue
    return run_round(experiment, backend, state, published, previous)


def run_round(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference, previous: Reference
) -> tuple[RunState, RoundRecord]:
    """One round, from the global model to the next and its record."""
    cohort = draw_cohort(experiment, state.round)
    uploads = train(experiment, backend, state.round, cohort, published, previous)
    uploads, attack_states, notes = let_attackers_craft(experiment, backend, state, published, uploads)
    usable = ~np.isin(uploads.updates.client_ids, list(uploads.reasons))
    verdict, defense_state = judge(experiment, backend, state, published, uploads.updates, usable)
    new_vector = apply(verdict, uploads.updates, usable, state.global_vector)
    next_state = RunState(state.round + 1, new_vector, state.global_vector, defense_state, attack_states)
    measures = evaluate(experiment, backend, state.round, new_vector)
    truth = np.isin(uploads.updates.client_ids, active_attackers(experiment, state.round))
    judged = Recording(state.round, state.global_vector, uploads.updates, usable, truth)
    return next_state, record_round(experiment, backend, uploads, judged, verdict, measures, notes)


def draw_cohort(experiment: Experiment, round: int) -> np.ndarray:
    """Sorted ids [K] of the clients that take part, from (seed, round) alone."""
    population, wanted = len(experiment.sizes), experiment.config.population.cohort_size
    if wanted == population:
        return np.arange(population)
    generator = rng.generator(experiment.config.seed, "cohort", round)
    return np.sort(generator.choice(population, wanted, replace=False))


def train(
    experiment: Experiment,
    backend: Backend,
    round: int,
    cohort: np.ndarray,
    published: Reference,
    previous: Reference,
) -> Uploads:
    """Local training of the cohort: hosts return tiles, which stay where they are, and a note per client."""
    order = RoundOrder(round, int(experiment.sizes[cohort].sum()))
    calls = split_cohort(cohort, experiment, backend.workers, round)
    items = [(order, members, published, previous) for members in calls]
    answers = backend.call_clients("train", "train", items, keep=len(experiment.plan.bounds))
    blocks: list[RowBlock] = []
    metas: list[UploadMeta] = []
    reasons: dict[int, str] = {}
    for members, answer in zip(calls, answers, strict=True):
        if answer is None:
            reasons.update({int(client): "lost: its host failed too often" for client in members})
            continue
        tiles, notes = answer
        every = np.arange(len(members))
        blocks.append(RowBlock(len(metas) + every, every, tiles))
        metas.extend(notes)
    reasons.update({meta.client: meta.reason for meta in metas if meta.reason})
    updates = Updates(
        backend=backend,
        layout=experiment.plan.layout,
        client_ids=np.array([meta.client for meta in metas], np.int64),
        num_examples=np.array([meta.num_examples for meta in metas], np.int64),
        bounds=experiment.plan.bounds,
        blocks=tuple(blocks),
    )
    honest = ~np.isin(updates.client_ids, active_attackers(experiment, round))
    losses = [
        meta.train_loss
        for meta, fair in zip(metas, honest, strict=True)
        if fair and np.isfinite(meta.train_loss)
    ]
    remarks = {str(meta.client): meta.note for meta in metas if meta.note}
    return Uploads(updates, reasons, float(np.mean(losses)) if losses else float("nan"), remarks)


def split_cohort(
    cohort: np.ndarray, experiment: Experiment, workers: int, round: int = 0
) -> list[np.ndarray]:
    """The cohort in blocks, one per host call: `clients_per_actor` ids, or two equal blocks per worker.

    Clients that train together are not parted: a block ends at the nearest place where none are (of two, the
    later: long calls first keep workers even).
    """
    plan, per_actor = experiment.plan, experiment.config.resources.clients_per_actor
    most = max(1, UPLOAD_BYTES // max(4 * plan.layout.num_columns, 1))
    size = per_actor if isinstance(per_actor, int) else -(-len(cohort) // (2 * workers))
    size = max(1, min(size, most))
    whole = np.ones(len(cohort) + 1, bool)
    for group in plan.groups(round, cohort):
        whole[group[0] + 1 : group[-1] + 1] = False
    places = np.flatnonzero(whole)[::-1]
    ends = {int(places[np.abs(places - end).argmin()]) for end in range(size, len(cohort), size)}
    return np.split(cohort, sorted(ends - {0, len(cohort)}))


def judge(
    experiment: Experiment,
    backend: Backend,
    state: RunState,
    published: Reference,
    updates: Updates,
    usable: np.ndarray,
) -> tuple[Verdict, State]:
    """The defense's verdict on the usable rows, widened to all rows received."""
    if not usable.any():
        count = updates.num_clients
        nothing = np.zeros(updates.dim, np.float32)
        return Verdict(nothing, np.zeros(count), None, np.ones(count, bool)), state.defense
    context = round_context(experiment, backend, state, published, "defense")
    if experiment.defense.calibration:
        context = replace(context, truth=active_attackers(experiment, state.round))
    name = type(experiment.defense).__name__
    with located("judge", name):
        verdict, defense_state = experiment.defense.apply(state.defense, updates.select(usable), context)
    shape, expected = np.shape(verdict.aggregate), (updates.dim,)
    if shape != expected or not np.isfinite(verdict.aggregate).all():
        problem = f"{name} returned an aggregate of shape {shape}, not finite values of shape {expected}"
        raise RunError(problem, stage="judge", round=state.round)
    return expand(verdict, usable), defense_state


def apply(verdict: Verdict, updates: Updates, usable: np.ndarray, global_vector: np.ndarray) -> np.ndarray:
    """The next global vector: parameters move by the aggregate, buffers by the verdict's weights.

    A coordinate-wise rule has no weights: buffers then follow the data-weighted mean of the rows that were
    not flagged.
    """
    d = updates.dim
    new = global_vector.copy()
    new[:d] += verdict.aggregate
    if len(new) > d:
        weights = verdict.weights
        if weights is None:
            accepted = usable if verdict.flagged is None else usable & ~verdict.flagged
            weights = np.where(accepted, np.maximum(updates.num_examples, 0), 0).astype(np.float64)
        total = weights.sum()
        if total > 0:
            new[d:] += updates.combine_buffers(weights / total)
    return new


def evaluate(
    experiment: Experiment, backend: Backend, round: int, vector: np.ndarray
) -> list[tuple[float, float, float]]:
    """(accuracy, loss, mean confidence) on the clean test set and on each triggered one; [] in rounds without."""
    config = experiment.config.evaluation
    if (round + 1) % config.every and round + 1 != experiment.config.rounds:
        return []
    published = backend.put(vector)
    items, owners = [], []
    for which, size in enumerate(experiment.test_sizes):
        batches = -(-size // config.batch_size)
        per_call = config.batch_size * max(1, -(-batches // backend.workers))
        for first in range(0, size, per_call):
            items.append((published, which, first, min(first + per_call, size)))
            owners.append(which)
    answers = backend.call_clients("evaluate", "evaluate", items)
    results = []
    for which in range(len(experiment.test_sizes)):
        batches_of = [answer for answer, owner in zip(answers, owners, strict=True) if owner == which]
        if any(answer is None for answer in batches_of):
            raise RunError(
                "a part of the test set could not be evaluated: its host failed too often", stage="evaluate"
            )
        total = np.concatenate(batches_of).sum(axis=0)
        results.append((total[1] / total[0], total[2] / total[0], total[3] / total[0]))
    return results


def record_round(
    experiment: Experiment,
    backend: Backend,
    uploads: Uploads,
    judged: Recording,
    verdict: Verdict,
    measures: Sequence[tuple[float, float, float]],
    notes: dict[str, Any],
) -> RoundRecord:
    """The round's rows for the tables, with the verdict scored against the truth."""
    round, updates, truth, nan = judged.round, judged.updates, judged.truth, float("nan")
    notes = {**notes, **({"clients": uploads.notes} if uploads.notes else {})}
    row: dict[str, Any] = {
        "round": round,
        "clients": updates.num_clients,
        "malicious": int(truth.sum()),
        "flagged": 0 if verdict.flagged is None else int(verdict.flagged.sum()),
        "train_loss": uploads.train_loss,
        "main_accuracy": measures[0][0] if measures else nan,
        "main_loss": measures[0][1] if measures else nan,
        "attack_success_rate": float(np.mean([m[0] for m in measures[1:]])) if measures[1:] else nan,
        "target_confidence": float(np.mean([m[2] for m in measures[1:]])) if measures[1:] else nan,
        "notes": json.dumps(notes, default=float, sort_keys=True) if notes else "",
    }
    if verdict.weights is not None:
        row["accepted"] = int(np.count_nonzero(verdict.weights))
    else:
        row["accepted"] = updates.num_clients - row["flagged"]
    names = ("recall", "precision", "fpr", "acc", "f1", "auc_hard", "auc_score")
    if verdict.flagged is None:
        row.update(dict.fromkeys(names, nan))
    else:
        scored = detection(truth, verdict.flagged, verdict.scores)
        row.update({name: getattr(scored, name) for name in names})
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
            "num_examples": 0,
            "reason": uploads.reasons[int(client)],
        }
        for client, malicious in zip(lost, attacking, strict=True)
    ]
    keep = experiment.config.record.heat_maps and round % experiment.config.record.every == 0
    artifacts = dict(verdict.artifacts) if keep else {}
    return RoundRecord(round, row, clients, artifacts, backend.telemetry.drain(), judged)
