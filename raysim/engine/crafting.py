"""The attackers' turn in a round: what they may see, what they submit, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np

from raysim.array_checks import as_array, described
from raysim.attack import Attack, View, Visibility
from raysim.backends.base import Backend, Reference, located
from raysim.config.keys import numbered
from raysim.context import Context, State
from raysim.engine.campaigns import among, commanded
from raysim.engine.experiment import Experiment, RunState, Uploads, active_attackers, round_context
from raysim.engine.uploads import NEGATIVE_VARIANCE
from raysim.engine.versions import Start
from raysim.errors import ContractError
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates


def crafting_clients(experiment: Experiment, round: int, cohort: np.ndarray) -> frozenset[int]:
    """Ids of the cohort's clients whose rows may be replaced in this round."""
    crafting = commanded(
        campaign
        for campaign in experiment.setup.campaigns
        if campaign.schedule.active(round) and campaign.attack.visibility is not Visibility.OWN
    )
    return frozenset(cohort[among(cohort, crafting)].tolist())


def let_attackers_craft(
    experiment: Experiment,
    backend: Backend,
    state: RunState,
    published: Reference,
    starts: Sequence[Start],
    uploads: Uploads,
) -> tuple[Uploads, tuple[State, ...], dict[str, object]]:
    """Attacks that collude or overhear replace their own rows, and no others.

    They see the round's rows as they were trained, each relative to what its client began from, and the newest global model.

    Also what they say of the round: one attack's remarks as they are, those of several under `attack.<number>`.
    """
    updates, reasons = uploads.updates, dict(uploads.reasons)
    attack_states: list[State] = list(state.attacks)
    notes: dict[str, object] = {}
    attackers = active_attackers(experiment, state.round)
    sent = np.array(sorted(set(updates.client_ids.tolist()) - set(reasons)), np.int64)
    benign = updates.select(np.isin(updates.client_ids, sent[~among(sent, attackers)]))
    for number, campaign in enumerate(experiment.setup.campaigns):
        attack = campaign.attack
        if attack.visibility is Visibility.OWN or not campaign.schedule.active(state.round):
            continue
        own = updates.select(np.isin(updates.client_ids, sent[among(sent, campaign.client_ids)]))
        if not own.num_clients:
            continue
        overheard = benign if attack.visibility is Visibility.OMNISCIENT and benign.num_clients else None
        view = View(own, overheard, len(updates.client_ids))
        context = round_context(experiment, backend, state, published, f"attack {number}")
        with located("craft", type(attack).__name__), backend.telemetry.owned("attack", rest="craft"):
            rows, attack_states[number] = crafted(attack, attack_states[number], view, context)
            said = attack.diagnostics(attack_states[number])
        if len(experiment.setup.campaigns) == 1:
            notes.update(said)
        elif said:
            notes[numbered("attack", experiment.setup.campaigns, number)] = said
        if rows is not None:
            for start in starts:
                began_there = rows.select(np.isin(rows.client_ids, start.clients))
                if began_there.num_clients:
                    reasons.update(unfit_rows(began_there, start.vector))
            updates = updates.replace_rows(rows)
    return replace(uploads, updates=updates, reasons=reasons), tuple(attack_states), notes


def crafted(
    attack: Attack,
    state: State,
    view: View,
    ctx: Context,
    around: AbstractContextManager[object] | None = None,
) -> tuple[Updates | None, State]:
    """What `attack.craft` submits for view.own's clients, its form checked: the one way by which anything asks it.

    around: entered for `craft` alone. Raises ContractError for anything but rows of these clients: an attacker may
    send what it likes, such as NaN, but not what has no place in the matrix.
    """
    with around or nullcontext():
        answer = attack.craft(state, view, ctx)
    name, own = type(attack).__name__, view.own
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise ContractError.of(name, "its answer", "must be a pair (rows or None, state)", described(answer))
    rows, state = answer
    if not isinstance(state, dict):
        hint = "return {} if nothing is remembered"
        raise ContractError.of(name, "its state", "must be a dict", described(state), hint)
    if rows is None:
        return None, state
    if not isinstance(rows, Updates):
        return _as_updates(name, rows, own), state
    if not np.array_equal(rows.client_ids, own.client_ids):
        rule = f"must be for the attacker's clients {_few(own.client_ids)}"
        raise ContractError.of(name, "rows", rule, f"rows for {_few(rows.client_ids)}")
    if (rows.bounds, rows.layout.num_columns) != (own.bounds, own.layout.num_columns):
        rule = f"must be cut at columns {own.bounds}, {own.layout.num_columns} in all"
        received = f"rows cut at {rows.bounds}, {rows.layout.num_columns} in all"
        raise ContractError.of(name, "rows", rule, received, "derive them from view.own or view.benign")
    return rows, state


def _as_updates(name: str, rows: object, own: Updates) -> Updates:
    """An array [c, d] or [c, d + b] as rows of own's clients."""
    count, layout = own.num_clients, own.layout
    array = as_array(rows)
    shapes = ((count, layout.dim), (count, layout.num_columns))
    if array is None or array.shape not in shapes or array.dtype.kind not in "iuf":
        rule = f"must be numbers of shape {shapes[0]}, one row per client of view.own"
        if layout.buffers:
            rule += f", or {shapes[1]} with buffers"
        raise ContractError.of(name, "rows", rule, described(rows))
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    return Updates.from_array(
        np.pad(array, ((0, 0), (0, layout.num_columns - array.shape[1]))),
        own.backend,
        layout=layout,
        client_ids=own.client_ids,
        num_examples=own.num_examples,
        bounds=own.bounds,
    )


def unfit_rows(rows: Updates, global_vector: np.ndarray) -> dict[int, str]:
    """Client id -> why its crafted row must not be used: what `reason_to_reject` says of uploads."""
    finite, negative = np.isfinite(rows.maxima()).all(axis=1), np.zeros(rows.num_clients, bool)
    columns = rows.layout.variance_columns
    if len(columns):
        guard = RowStage("guard", _negative_variance, (columns - rows.dim, global_vector[columns]))
        negative = np.array(rows.map_row_stage(guard), bool)
    found = zip(rows.client_ids.tolist(), finite, negative, strict=True)
    return {
        client: NEGATIVE_VARIANCE if usable else "non-finite"
        for client, usable, below in found
        if not usable or below
    }


def _few(ids: np.ndarray) -> str:
    """Client ids, the first of them where they are many."""
    return ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")


def _negative_variance(
    rows: np.ndarray, tiles: Sequence[np.ndarray], variances: np.ndarray, held: np.ndarray
) -> list[bool]:
    """held: the global model's variances, which lie at columns `variances` of the last tile, the buffers'."""
    return [bool((held + tiles[-1][row, variances] < 0).any()) for row in rows]
