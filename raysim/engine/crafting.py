"""The attackers' turn in a round: what they may see, what they submit, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from raysim.attack import View, Visibility
from raysim.backends.base import Backend, Reference, located
from raysim.config.schema import numbered
from raysim.context import State
from raysim.engine.experiment import Experiment, RunState, Uploads, active_attackers, round_context
from raysim.errors import RunError
from raysim.matrix.layout import Layout
from raysim.matrix.row_stage import RowStage
from raysim.matrix.updates import Updates


def crafting_clients(experiment: Experiment, round: int) -> frozenset[int]:
    """Ids of the clients whose rows may be replaced in this round."""
    crafting = [
        campaign.client_ids.tolist()
        for campaign in experiment.setup.campaigns
        if campaign.schedule.active(round) and campaign.attack.visibility is not Visibility.OWN
    ]
    return frozenset(client for ids in crafting for client in ids)


def let_attackers_craft(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference, uploads: Uploads
) -> tuple[Uploads, tuple[State, ...], dict[str, Any]]:
    """Attacks that collude or overhear replace their own rows, and no others.

    Also what they say of the round: one attack's remarks as they are, those of several under `attack.<number>`.
    """
    updates, reasons = uploads.updates, dict(uploads.reasons)
    attack_states: list[State] = list(state.attacks)
    notes: dict[str, Any] = {}
    attackers = active_attackers(experiment, state.round)
    sent = np.array(sorted(set(updates.client_ids.tolist()) - set(reasons)), np.int64)
    benign = updates.select(np.isin(updates.client_ids, np.setdiff1d(sent, attackers)))
    for number, campaign in enumerate(experiment.setup.campaigns):
        attack = campaign.attack
        if attack.visibility is Visibility.OWN or not campaign.schedule.active(state.round):
            continue
        own = updates.select(np.isin(updates.client_ids, np.intersect1d(sent, campaign.client_ids)))
        if not own.num_clients:
            continue
        overheard = benign if attack.visibility is Visibility.OMNISCIENT and benign.num_clients else None
        view = View(own, overheard, len(updates.client_ids))
        context = round_context(experiment, backend, state, published, f"attack {number}")
        with located("craft", type(attack).__name__):
            crafted, attack_states[number] = attack.craft(attack_states[number], view, context)
        said = attack.diagnostics(attack_states[number])
        if len(experiment.setup.campaigns) == 1:
            notes.update(said)
        elif said:
            notes[numbered("attack", experiment.setup.campaigns, number)] = said
        if crafted is not None:
            rows, unfit = checked_rows(crafted, own, experiment.setup.layout)
            reasons.update(unfit)
            updates = updates.replace_rows(rows)
    return replace(uploads, updates=updates, reasons=reasons), tuple(attack_states), notes


def checked_rows(crafted: Any, own: Updates, layout: Layout) -> tuple[Updates, dict[int, str]]:
    """What `craft` returned as rows for own.client_ids, and why some of them must not be used."""
    ids = own.client_ids
    if not isinstance(crafted, Updates):
        array = np.asarray(crafted, dtype=np.float32)
        if array.shape == (len(ids), layout.dim):
            array = np.pad(array, ((0, 0), (0, layout.num_columns - layout.dim)))
        if array.shape != (len(ids), layout.num_columns):
            reason = f"wrong shape {array.shape}, expected ({len(ids)}, {layout.dim})"
            return own, {int(client): reason for client in ids}
        crafted = Updates.from_array(
            array,
            own.backend,
            layout=layout,
            client_ids=ids,
            num_examples=own.num_examples,
            bounds=own.bounds,
        )
    if not np.array_equal(crafted.client_ids, ids) or crafted.bounds != own.bounds:
        raise RunError(
            f"crafted rows are for clients {crafted.client_ids}, not for the attacker's {ids}", stage="craft"
        )
    finite = crafted.map_row_stage(RowStage("guard", _rows_finite))
    unfit = {int(c): "non-finite" for c, fine in zip(ids, finite, strict=True) if not fine}
    return crafted, unfit


def _rows_finite(rows: np.ndarray, tiles: Sequence[np.ndarray]) -> list[bool]:
    return [all(bool(np.isfinite(tile[row]).all()) for tile in tiles) for row in rows]
