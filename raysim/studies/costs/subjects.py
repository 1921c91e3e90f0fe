"""Methods to measure, as they are named: a defense or an attack, with options behind commas, `pdrr,rule=median`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from raysim.attack import Attack, View, Visibility
from raysim.composition.registry import make
from raysim.config.method_text import parse_method
from raysim.config.schema import Component
from raysim.context import Context, Setting, State
from raysim.defense import Defense, Verdict, check_setting, judged
from raysim.engine.crafting import crafted
from raysim.errors import ConfigError
from raysim.matrix.updates import Updates
from raysim.studies.matrix import Matrix

FIRST_ROUND = 100
"""The round that is measured first: late enough for what begins later in a run (FedGrad's hard filter: round 50)."""

Around = AbstractContextManager[object]
"""What is entered for the method's own work alone: a clock, a watch."""


class Measurable(Protocol):
    """Rows, which of them are malicious [K] bool, and the context that goes with them."""

    @property
    def updates(self) -> Updates:
        """The rows."""

    @property
    def truth(self) -> np.ndarray:
        """[K] bool."""

    @property
    def context(self) -> Context:
        """That of a defense."""


@dataclass(frozen=True)
class Subject(ABC):
    """A method and its label."""

    label: str

    @property
    def name(self) -> str:
        """The registered name."""
        return self.label.partition(",")[0]

    @abstractmethod
    def check(self, setting: Setting) -> None:
        """Refuse what cannot work."""

    @abstractmethod
    def begin(self, matrix: Measurable) -> State:
        """The state before the first round."""

    @abstractmethod
    def once(
        self, state: State, matrix: Measurable, number: int, around: Around | None = None
    ) -> tuple[tuple[np.ndarray, ...], State]:
        """What comes out of round `number`, and the state after it: rounds follow each other as in a run."""

    def said(self, state: State) -> str:
        """What it says of its last round."""
        return ""


@dataclass(frozen=True)
class Judging(Subject):
    """A defense."""

    defense: Defense

    def check(self, setting: Setting) -> None:
        """See Subject."""
        check_setting(self.defense, setting)

    def begin(self, matrix: Measurable) -> State:
        """See Subject."""
        return self.defense.init(self._context(matrix, 0))

    def once(
        self, state: State, matrix: Measurable, number: int, around: Around | None = None
    ) -> tuple[tuple[np.ndarray, ...], State]:
        """The verdict's arrays."""
        verdict, state = judged(self.defense, state, matrix.updates, self._context(matrix, number), around)
        return arrays_of(verdict), state

    def _context(self, matrix: Measurable, number: int) -> Context:
        truth = matrix.updates.client_ids[matrix.truth] if self.defense.calibration else None
        return replace(matrix.context, round=number, truth=truth)


@dataclass(frozen=True)
class Crafting(Subject):
    """An attack. The planted malicious clients' rows are taken for what the attackers trained."""

    attack: Attack

    def check(self, setting: Setting) -> None:
        """See Subject."""
        if not 0 < setting.num_malicious < setting.population:
            rule = f"must leave from 1 to {setting.population - 1} attackers"
            raise ConfigError("malicious", rule, setting.num_malicious)
        self.attack.check(setting)

    def begin(self, matrix: Measurable) -> State:
        """See Subject."""
        return self.attack.init(self._context(matrix, 0))

    def once(
        self, state: State, matrix: Measurable, number: int, around: Around | None = None
    ) -> tuple[tuple[np.ndarray, ...], State]:
        """The largest magnitudes of every crafted row [c, shards]."""
        updates, truth = matrix.updates, matrix.truth
        overheard = self.attack.visibility is Visibility.OMNISCIENT
        view = View(updates.select(truth), updates.select(~truth) if overheard else None, updates.num_clients)
        rows, state = crafted(self.attack, state, view, self._context(matrix, number), around)
        return (() if rows is None else (np.asarray(rows.maxima()),)), state

    def said(self, state: State) -> str:
        """See Subject."""
        found = self.attack.diagnostics(state)
        return ", ".join(f"{key} {_short(value)}" for key, value in found.items() if key != "bases")

    def _context(self, matrix: Measurable, number: int) -> Context:
        return replace(matrix.context, role="attack 0", server_data=None, round=number)


def arrays_of(verdict: Verdict) -> tuple[np.ndarray, ...]:
    """Those that it has: aggregate, weights, scores, flags."""
    found = (verdict.aggregate, verdict.weights, verdict.scores, verdict.flagged)
    return tuple(array for array in found if array is not None)


def parse_subjects(labels: Sequence[str]) -> list[Judging]:
    """The defenses named, each `name` or `name,key=value,...`."""
    from defenses.table import DEFENSES

    return [
        Judging(label, make("defense", DEFENSES, Component(**parse_method("defense", label)), Defense))
        for label in labels
    ]


def parse_attacks(labels: Sequence[str]) -> list[Crafting]:
    """The attacks named; ConfigError for one that crafts nothing."""
    from attacks.table import ATTACKS

    found = []
    for label in labels:
        attack = make("attack", ATTACKS, Component(**parse_method("attack", label)), Attack)
        if type(attack).craft is Attack.craft or attack.visibility is Visibility.OWN:
            raise ConfigError(
                "attack", "must make its rows from what it sees of other clients", label, "alie"
            )
        found.append(Crafting(label, attack))
    return found


def check_subjects(subjects: Sequence[Subject], matrix: Matrix) -> None:
    """Refuse a method that cannot work on this matrix."""
    spec, data = matrix.spec, matrix.context.server_data
    setting = Setting.of(
        spec.clients,
        num_malicious=spec.malicious,
        rounds=matrix.context.rounds,
        num_classes=spec.num_classes,
        server_labels=None if data is None else data.labels,
    )
    for subject in subjects:
        subject.check(setting)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
