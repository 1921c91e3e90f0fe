"""One federated experiment, round by round.

`run_round` is the story: draw a cohort, wait for those who come in time (or for a buffer to fill), train (or draw the
updates), let the attacker craft, judge, aggregate, score the verdict against the truth the defense never saw; then
`evaluate`. `rounds` repeats it from any state, so that a run in one go and a run that was resumed do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import starmap
from operator import attrgetter
from typing import TypeVar

import numpy as np

from raysim.attack import Attack
from raysim.backends.base import Backend, Kept, Reference, located
from raysim.backends.gathering import STAGE as GATHER
from raysim.backends.left_behind import left_in, require_whole
from raysim.context import State
from raysim.defense import Defense, Verdict, judged_usable, prepared_model
from raysim.engine.buffered import await_buffer
from raysim.engine.calls import Calls, limits_s, near, smaller_where_lost, split_cohort, work_of
from raysim.engine.campaigns import among
from raysim.engine.cohort import Arrivals, await_arrivals, draw_cohort
from raysim.engine.crafting import crafting_clients, let_attackers_craft
from raysim.engine.evaluation import evaluate
from raysim.engine.experiment import (
    Experiment,
    RoundRecord,
    RunState,
    Uploads,
    active_attackers,
    round_context,
)
from raysim.engine.host import ClientHost, RoundOrder
from raysim.engine.recording import Recording
from raysim.engine.round_record import evaluated, record_round
from raysim.engine.server_optimizer import apply
from raysim.engine.versions import Start, discounted, discounts_rows, models_in_use, start_of, starts_of
from raysim.errors import LostWork, RunError
from raysim.matrix.row_blocks import RowBlock
from raysim.matrix.row_stage import Ahead, RowStage, begin_ahead
from raysim.matrix.stacking import stacked
from raysim.matrix.updates import Updates

NO_SAMPLES = "no samples"
ONE_SAMPLE = "a single sample, and the model normalises over batches"
"""Why a client of the cohort sent nothing."""

LOST_ROUNDS = 3
"""How often one round is done again when results were lost with a node."""


def start(experiment: Experiment, backend: Backend) -> None:
    """Bring up the hosts that train clients."""
    backend.start_clients(ClientHost, (experiment.setup, *experiment.arrays))


def initial_state(experiment: Experiment, backend: Backend) -> RunState:
    """The state before round 0: with the model that the defense prepares, where it does."""
    state = RunState(0, experiment.initial, None, {}, ())
    published = backend.put(experiment.initial)
    name = type(experiment.defense).__name__
    with located("init", name), backend.telemetry.owned("defense", rest="initial_model"):
        context = round_context(experiment, backend, state, published, "defense")
        prepared = prepared_model(experiment.defense, context)
    if prepared is not None:
        state, published = replace(state, global_vector=prepared), backend.put(prepared)

    def first(method: Defense | Attack, role: str) -> State:
        with located("init", type(method).__name__):
            return method.init(round_context(experiment, backend, state, published, role))

    with backend.telemetry.owned("defense", rest="init"):
        defense = first(experiment.defense, "defense")
    campaigns = enumerate(experiment.setup.campaigns)
    with backend.telemetry.owned("attack"):
        attacks = tuple(first(campaign.attack, f"attack {number}") for number, campaign in campaigns)
    return replace(state, defense=defense, attacks=attacks)


Round = tuple[RunState, RoundRecord]
"""The state after a round, and its record."""

Result = TypeVar("Result")


def rounds(experiment: Experiment, backend: Backend, state: RunState) -> Generator[Round]:
    """The remaining rounds, one after the other.

    With resources.pipeline, and where the backend can, a round is evaluated while the next one trains; a round that
    was played is evaluated and handed out also when the next one fails.
    """
    played = _played(experiment, backend, state)
    aside = backend.apart() if experiment.config.resources.pipeline else None
    if aside is None:
        yield from starmap(partial(_evaluated, experiment, backend), played)
        return
    waiting: Future[Round] | None = None
    failure: Exception | None = None
    with ThreadPoolExecutor(1) as other_thread:
        while True:
            try:
                following = next(played, None)
            except Exception as error:
                following, failure = None, error
            earlier, waiting = waiting, None
            if following is not None:
                waiting = other_thread.submit(_evaluated, experiment, aside, *following)
                del following  # it may hold rows that are to be recorded
            if earlier is not None:
                yield earlier.result()
            if failure is not None:
                raise failure
            if waiting is None:
                return


def _played(experiment: Experiment, backend: Backend, state: RunState) -> Iterator[tuple[Round, Reference]]:
    """The remaining rounds as they are before evaluation, each with the model it ends with, which is published once: to be
    evaluated, and for the next round, to whose hosts it is on its way. Rows are given back before the next round trains.
    """
    previous: Reference = None if state.previous_vector is None else backend.put(state.previous_vector)
    published = backend.put(state.global_vector)
    while state.round < experiment.config.rounds:
        work = partial(run_round, experiment, backend, state, published, previous)
        result = _let_go(experiment, _again_if_lost(state.round, work, state))
        state, previous = result[0], published
        published = backend.put(state.global_vector)
        if state.round < experiment.config.rounds:
            backend.broadcast(published)
        yield result, published
        del result, work


def _evaluated(experiment: Experiment, backend: Backend, played: Round, published: Reference) -> Round:
    """The round with its measures and their spans. published: the model it ended with."""
    state, record = played
    began = state.previous_vector
    assert began is not None, "a round was played"
    work = partial(evaluate, experiment, backend, record.number, published, began)
    measures = _again_if_lost(record.number, work)
    spans = [*record.spans, *backend.telemetry.drain()]
    return state, replace(record, row=evaluated(record.row, measures), spans=spans)


def _let_go(experiment: Experiment, played: Round) -> Round:
    """The round without its rows, which nobody reads any more, unless they are to be recorded."""
    state, record = played
    if experiment.config.record.updates and record.number % experiment.config.record.every == 0:
        return played
    judged = replace(record.judged, updates=replace(record.judged.updates, blocks=()))
    return state, replace(record, judged=judged)


def _again_if_lost(round: int, work: Callable[[], Result], state: RunState | None = None) -> Result:
    """work(), done again when results were lost with a node; the spans of lost attempts are kept.

    state: what work() goes on from; LostWork at once where a part of that is lost itself, which doing it again cannot mend.
    """
    try:
        for _ in range(LOST_ROUNDS):
            try:
                return work()
            except LostWork:
                if state is not None:
                    require_whole(state.tree())
        return work()
    except RunError as error:
        raise error.located(round=round) from error


def run_round(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference, previous: Reference
) -> Round:
    """One round, from the global model to the next and its record, without evaluation."""
    backend.telemetry.round = state.round
    if experiment.config.resources.elastic:
        backend.recount([part.reference for part in left_in(state.tree())])
    arrivals = arriving(experiment, state)
    starts = starts_of(experiment, backend, state, arrivals, published, previous)
    stage = stage_ahead(experiment, backend, state, published)
    uploads = train(experiment, backend, state.round, starts, stage)
    uploads, attack_states, notes = let_attackers_craft(
        experiment, backend, state, published, starts, uploads
    )
    uploads = discounted(experiment, require_quorum(experiment, uploads), arrivals)
    usable = ~np.isin(uploads.updates.client_ids, list(uploads.reasons))
    verdict, defense_state = judge(experiment, backend, state, published, uploads.updates, usable)
    new_vector, server_state = apply(
        verdict, uploads.updates, usable, state.global_vector, experiment.config.server, state.server
    )
    next_state = RunState(
        state.round + 1,
        new_vector,
        state.global_vector,
        defense_state,
        attack_states,
        server_state,
        arrivals.end_s,
        arrivals.under_way,
        models_in_use(experiment, state, arrivals),
    )
    truth = among(uploads.updates.client_ids, active_attackers(experiment, state.round))
    rows = replace(uploads.updates, ahead=())
    staleness = None if arrivals.versions is None else arrivals.staleness_of(rows.client_ids)
    judged = Recording(state.round, state.global_vector, rows, usable, truth, staleness)
    return next_state, record_round(experiment, backend, arrivals, uploads, judged, verdict, notes)


def arriving(experiment: Experiment, state: RunState) -> Arrivals:
    """Who takes part in the round: the cohort that is drawn for it or, in asynchronous rounds, those who fill the buffer."""
    if experiment.config.population.buffer is not None:
        return await_buffer(experiment, state)
    asked = draw_cohort(experiment, state.round, state.clock_s)
    return await_arrivals(experiment, asked, state.clock_s)


def stage_ahead(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference
) -> RowStage[object] | None:
    """The defense's per-row stage, if it may start while uploads are still arriving; otherwise None."""
    if not experiment.config.resources.pipeline or discounts_rows(experiment.config):
        return None
    with located("judge", type(experiment.defense).__name__):
        stage = experiment.defense.row_stage(round_context(experiment, backend, state, published, "defense"))
    return stage if stage is not None and stage.key is not None else None


def train(
    experiment: Experiment,
    backend: Backend,
    round: int,
    starts: Sequence[Start],
    stage: RowStage[object] | None = None,
) -> Uploads:
    """Local training of the cohort, each client from the model it was sent: hosts return tiles, which stay where they are, and a note per client.

    Where the defense reads the columns of these rows, tiles are brought together as they land, on several nodes, and what is left
    under way is waited for: tasks begun before that were no faster, and some stood still for a second.

    A client without samples, or with too few to train on, has nothing to say: it stays out of the matrix, an attacker
    or not.
    Where updates are drawn instead, hosts draw them, and answer likewise.
    stage: begun on every block as it arrives, but for rows that cannot be used or are about to be replaced.
    """
    cohort = np.sort(np.concatenate([start.clients for start in starts]))
    able = cohort[experiment.sizes[cohort] >= experiment.setup.least_samples]
    order = RoundOrder(round, int(experiment.sizes[able].sum()))
    hosts = max(backend.workers, backend.hosts)
    alike = (np.intersect1d(start.clients, able, assume_unique=True) for start in starts)
    as_they_are = experiment.defense.reads_columns and not discounts_rows(experiment.config)
    most_bytes = experiment.config.resources.gather_bytes if as_they_are else 0
    gathering = backend.gathering(len(experiment.setup.bounds) - 1, most_bytes) if most_bytes else None
    cut = partial(split_cohort, crossing=gathering is not None)
    calls = [call for part in alike if len(part) for call in cut(part, experiment, hosts, round)]
    ahead: list[Ahead] = []
    replaced = crafting_clients(experiment, round, able)

    def arrive(number: int, answer: Kept) -> None:
        tiles, notes = answer
        if gathering is not None:
            gathering.land(tiles)
        fit = [place for place, m in enumerate(notes) if not m.reason and m.client not in replaced]
        if stage is not None and fit:
            ids = np.array([notes[place].client for place in fit], np.int64)
            ahead.append(begin_ahead(backend, stage, number, ids, np.array(fit), tiles))

    trains = experiment.setup.synthetic is None
    method = "train" if trains else "draw"

    def told(members: np.ndarray) -> tuple[object, ...]:
        start = start_of(starts, members)
        shared = (start.published, start.previous) if trains else ()
        return (replace(order, version=start.version), members, *shared)

    def ask(calls: Calls, then: Callable[[int, Kept], None] | None = None) -> list[Kept | None]:
        return backend.call_clients(
            method,
            method,
            [told(members) for members in calls],
            keep=len(experiment.setup.bounds),
            then=then,
            limits_s=limits_s(experiment, calls),
            work=[work_of(experiment, round, members) for members in calls],
            near=near(experiment, calls),
        )

    with backend.telemetry.owned("client" if trains else "engine"):
        answers = ask(calls, arrive)
        if experiment.config.resources.lost_clients == "split":
            calls, answers = smaller_where_lost(experiment, round, calls, answers, ask)
    if gathering is not None:
        with backend.telemetry.owned("defense"):
            backend.finish(GATHER, gathering.begun)
    answered = [
        (members, *answer) for members, answer in zip(calls, answers, strict=True) if answer is not None
    ]
    reasons = {
        int(client): ONE_SAMPLE if experiment.sizes[client] else NO_SAMPLES
        for client in np.setdiff1d(cohort, able)
    }
    sent = np.sort(np.concatenate([members for members, *_ in answered])) if answered else able[:0]
    reasons |= {int(client): "lost: its host failed too often" for client in np.setdiff1d(able, sent)}
    metas = sorted((meta for *_, notes in answered for meta in notes), key=attrgetter("client"))
    blocks = [
        RowBlock(
            np.searchsorted(sent, members),
            np.arange(len(members)),
            tiles,
            np.stack([meta.maxima for meta in notes]),
        )
        for members, tiles, notes in answered
    ]
    reasons.update({meta.client: meta.reason for meta in metas if meta.reason})
    if poisoned_s := sum(meta.attack_s for meta in metas):
        backend.telemetry.divide("train", "poison", "attack", poisoned_s)
    updates = Updates(
        backend=backend,
        layout=experiment.setup.layout,
        client_ids=sent,
        num_examples=np.array([meta.num_examples for meta in metas], np.int64),
        bounds=experiment.setup.bounds,
        blocks=tuple(blocks),
        ahead=tuple(ahead),
    )
    honest = ~among(updates.client_ids, active_attackers(experiment, round))
    losses = np.array([meta.train_loss for meta in metas], np.float64)[honest]
    losses = losses[np.isfinite(losses)]
    remarks = {str(meta.client): meta.note for meta in metas if meta.note}
    loss = float(losses.mean()) if len(losses) else float("nan")
    return Uploads(stacked(updates), reasons, loss, remarks)


def require_quorum(experiment: Experiment, uploads: Uploads) -> Uploads:
    """The uploads as they are, or, where fewer can be used than `population.min_cohort`, all of them set aside."""
    wanted = experiment.config.population.min_cohort or 1
    usable = [client for client in uploads.updates.client_ids.tolist() if client not in uploads.reasons]
    if len(usable) >= wanted:
        return uploads
    too_few = f"no quorum: {len(usable)} usable uploads, population.min_cohort is {wanted}"
    return replace(uploads, reasons={**uploads.reasons, **dict.fromkeys(usable, too_few)})


def judge(
    experiment: Experiment,
    backend: Backend,
    state: RunState,
    published: Reference,
    updates: Updates,
    usable: np.ndarray,
) -> tuple[Verdict, State]:
    """The defense's verdict on the usable rows, widened to all rows received."""
    context = round_context(experiment, backend, state, published, "defense")
    if experiment.defense.calibration:
        context = replace(context, truth=active_attackers(experiment, state.round))
    name = type(experiment.defense).__name__
    with located("judge", name), backend.telemetry.owned("defense", rest="judge"):
        return judged_usable(experiment.defense, state.defense, updates, usable, context)
