"""What a run is made of, and what its rounds hand on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raysim.backends.base import Backend, Reference
from raysim.backends.telemetry import Span
from raysim.config.schema import ExperimentConfig
from raysim.context import Context, ServerData, State
from raysim.defense import Chain, Defense, title
from raysim.engine.host import HostSetup
from raysim.engine.recording import Recording
from raysim.fleet.contract import Fleet
from raysim.matrix.updates import Updates
from raysim.trees import Row, Tree


@dataclass(frozen=True)
class Homes:
    """Names of nodes, and the number of the node where each client's samples lie [N]; NOWHERE for who has none."""

    names: tuple[str, ...]
    of: np.ndarray

    def most(self, clients: np.ndarray) -> str:
        """The node where most of these lie, of several the first; empty if they have no samples."""
        found = np.bincount(self.of[clients] + 1, minlength=len(self.names) + 1)[1:]
        return self.names[found.argmax()] if found.any() else ""


NOWHERE = -1


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, composed and checked; the big arrays are references to a backend's store."""

    config: ExperimentConfig
    setup: HostSetup
    initial: np.ndarray
    """The global vector [d + b] before round 0."""
    defense: Defense
    server_data: ServerData | None
    sizes: np.ndarray
    """Training samples of every client [N]."""
    malicious: np.ndarray
    """Sorted ids of the malicious clients."""
    arrays: tuple[Any, ...]
    """What a ClientHost is made from, besides the plan: data, partition, test sets; arrays, or references to them."""
    test_sizes: tuple[int, ...]
    """Samples in the clean test set and in each triggered one."""
    notes: tuple[str, ...] = ()
    """What the data's loader decided and the user must know, one sentence each."""
    homes: Homes | None = None
    """Where clients' samples lie, if nodes hold different ones; None: everywhere."""
    fleet: Fleet | None = None
    """The clients' devices, which make virtual time; None: nothing is known of them."""

    def titles(self) -> dict[str, object]:
        """How reports name the run's defenses, stored with it: the title of each, and whether one is shown the truth."""
        names = [component.name for component in self.config.defense]
        steps: tuple[Defense, ...] = (self.defense,)
        if isinstance(self.defense, Chain) and len(names) > 1:
            steps = self.defense.steps
        return {
            "titles": {name: title(name, step) for name, step in zip(names, steps, strict=True)},
            "calibration": self.defense.calibration,
        }

    def published(self, backend: Backend) -> Experiment:
        """The same with its arrays in the backend's store: one copy a node, whoever reads them."""
        return replace(self, arrays=tuple(backend.put(array) for array in self.arrays))


@dataclass(frozen=True)
class RunState:
    """What one round hands to the next."""

    round: int
    """Number of the next round = rounds done."""
    global_vector: np.ndarray
    previous_vector: np.ndarray | None
    defense: State
    attacks: tuple[State, ...]
    server: State = field(default_factory=dict)
    """What the server's optimizer remembers."""
    clock_s: float = 0.0
    """Virtual seconds since the start, with devices."""
    under_way: State = field(default_factory=dict)
    """In asynchronous rounds: who trains while the server aggregates (`buffered.UnderWay`)."""
    models: dict[str, np.ndarray] = field(default_factory=dict)
    """In asynchronous rounds: version -> global vector [d + b], of those older than the two above that are still in use."""

    def tree(self) -> dict[str, object]:
        """The state as a tree that a checkpoint holds."""
        return {
            "round": self.round,
            "global_vector": self.global_vector,
            "previous_vector": self.previous_vector,
            "defense": self.defense,
            "attacks": list(self.attacks),
            "server": self.server,
            "clock_s": self.clock_s,
            "under_way": self.under_way,
            "models": self.models,
        }

    @classmethod
    def from_tree(cls, tree: Tree) -> RunState:
        """The state in a checkpoint's tree."""
        return cls(**{**tree, "attacks": tuple(tree["attacks"])})


@dataclass(frozen=True)
class RoundRecord:
    """What a round leaves behind: rows for the tables, the defense's arrays, and what it judged."""

    number: int
    row: Row
    clients: list[Row]
    artifacts: dict[str, np.ndarray]
    spans: list[Span]
    judged: Recording


@dataclass(frozen=True)
class Uploads:
    """The rows a round received, and why some of the cohort's must not be used."""

    updates: Updates
    reasons: dict[int, str]
    """Client id -> reason, for rows that are unusable or never came."""
    train_loss: float
    notes: dict[str, str]
    """Client id -> what a compromised client remarked about the round."""


def active_attackers(experiment: Experiment, round: int) -> np.ndarray:
    """Ids of the clients that attack in this round."""
    return experiment.setup.attackers(round)


def round_context(
    experiment: Experiment, backend: Backend, state: RunState, published: Reference, role: str
) -> Context:
    """What a method is given in this round; role: "defense", or "attack" with its number."""
    return Context(
        backend=backend,
        seed=experiment.config.seed,
        role=role,
        round=state.round,
        rounds=experiment.config.rounds,
        layout=experiment.setup.layout,
        published=published,
        global_vector=state.global_vector,
        factory=experiment.setup.factory,
        server_data=experiment.server_data if role == "defense" else None,
        recipe=experiment.setup.recipe,
    )
