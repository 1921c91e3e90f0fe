"""Versions of the global model: what clients of an asynchronous round began from, and what their updates count for.

A version is named by the round that begins with it. In synchronous rounds all clients begin from the newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from raysim.backends.base import Backend, Reference
from raysim.config.schema import ExperimentConfig
from raysim.config.training import ServerConfig
from raysim.engine.cohort import Arrivals
from raysim.engine.experiment import Experiment, RunState, Uploads
from raysim.matrix.new_rows import rows_from
from raysim.matrix.updates import Updates


@dataclass(frozen=True)
class Start:
    """Clients of one round that were sent the same global model.

    clients: sorted ids. version: the round that began with the model. vector [d + b]: the model; published: a reference to
    it; previous: one to the model of the version before, None if there is none, or nobody looks at it.
    """

    clients: np.ndarray
    version: int
    vector: np.ndarray
    published: Reference
    previous: Reference


def starts_of(
    experiment: Experiment,
    backend: Backend,
    state: RunState,
    arrivals: Arrivals,
    published: Reference,
    previous: Reference,
) -> list[Start]:
    """What the clients of a round begin from, older versions first.

    published, previous: references to the newest version and the one before.
    """
    newest = state.round
    if arrivals.versions is None:
        return [Start(arrivals.cohort, newest, state.global_vector, published, previous)]
    versions = newest - arrivals.staleness_of(arrivals.cohort)
    held: dict[int, Reference] = {newest: published, newest - 1: previous}

    def reference(version: int) -> Reference:
        if version not in held:
            held[version] = None if version < 0 else backend.put(model_of(state, version))
        return held[version]

    return [
        Start(
            arrivals.cohort[versions == version],
            version,
            model_of(state, version),
            reference(version),
            reference(version - 1) if experiment.setup.campaigns else None,
        )
        for version in np.unique(versions).tolist()
    ]


def start_of(starts: Sequence[Start], members: np.ndarray) -> Start:
    """What these clients begin from, who all begin from the same."""
    if len(starts) == 1:
        return starts[0]
    return next(start for start in starts if members[0] in start.clients)


def model_of(state: RunState, version: int) -> np.ndarray:
    """The global vector [d + b] of a version that is still in use."""
    if version == state.round:
        return state.global_vector
    if version == state.round - 1:
        assert state.previous_vector is not None, "a round was played"
        return state.previous_vector
    model: np.ndarray = state.models[str(version)]
    return model


def models_in_use(experiment: Experiment, state: RunState, arrivals: Arrivals) -> dict[str, np.ndarray]:
    """The models that the state after this round must hold beside the newest two: clients under way were sent them.

    With attackers also the one before each, which a compromised client was sent once, too.
    """
    if not arrivals.under_way:
        return {}
    used = set(arrivals.under_way["versions"].tolist())
    if experiment.setup.campaigns:
        used |= {version - 1 for version in used}
    return {str(version): model_of(state, version) for version in sorted(used) if 0 <= version < state.round}


def discounts(server: ServerConfig, staleness: np.ndarray) -> np.ndarray:
    """Factors [k] float64 of updates that are `staleness` [k] versions behind: (1 + staleness)^-exponent, or 1.

    >>> discounts(ServerConfig(), np.array([0, 3])).tolist()
    [1.0, 0.5]
    """
    if server.staleness == "constant":
        return np.ones(len(staleness))
    factors: np.ndarray = (1.0 + staleness) ** -server.staleness_exponent
    return factors


def discounts_rows(config: ExperimentConfig) -> bool:
    """Whether the rows that a defense is given may be others than those that arrive."""
    return config.population.buffer is not None and config.server.staleness != "constant"


def discounted(experiment: Experiment, uploads: Uploads, arrivals: Arrivals) -> Uploads:
    """The uploads as the defense is given them: stale ones scaled down, buffers included, where they lie.

    As in FedBuff, what a mean adds up is s(staleness) times the update, over the number of updates. The defense judges the
    rows that it aggregates: its guarantee holds for these.
    """
    updates = uploads.updates
    if arrivals.versions is None or not updates.num_clients:
        return uploads
    factors = discounts(experiment.config.server, arrivals.staleness_of(updates.client_ids))
    return uploads if (factors == 1).all() else replace(uploads, updates=scaled(updates, factors))


def scaled(updates: Updates, factors: np.ndarray) -> Updates:
    """Each row times its factor [K], in float32; integer counters among the buffers stay."""
    counters = updates.dim + updates.layout.counter_columns()
    return rows_from(
        updates,
        np.arange(updates.num_clients),
        "staleness",
        partial(_scaled, factors.astype(np.float32), counters),
        client_ids=updates.client_ids,
        num_examples=updates.num_examples,
    )


def _scaled(
    factors: np.ndarray, counters: np.ndarray, values: np.ndarray, first: int, number: int
) -> np.ndarray:
    row: np.ndarray = values * factors[number]
    stays = counters[(counters >= first) & (counters < first + len(values))] - first
    row[stays] = values[stays]
    return row
