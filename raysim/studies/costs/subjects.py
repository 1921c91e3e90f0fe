"""Defenses to measure, as they are named: `krum`, or with options behind commas, `pdrr,rule=median`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raysim.composition.registry import make
from raysim.config.method_text import parse_method
from raysim.config.schema import Component
from raysim.context import Setting
from raysim.defense import Defense, check_setting
from raysim.studies.matrix import Matrix

FIRST_ROUND = 100
"""The round that is measured first: late enough for what begins later in a run (FedGrad's hard filter: round 50)."""


@dataclass(frozen=True)
class Subject:
    """A defense and its label."""

    label: str
    defense: Defense

    @property
    def name(self) -> str:
        """The registered name."""
        return self.label.partition(",")[0]


def parse_subjects(labels: Sequence[str]) -> list[Subject]:
    """The defenses named, each `name` or `name,key=value,...`."""
    from defenses.table import DEFENSES

    return [
        Subject(label, make("defense", DEFENSES, Component(**parse_method("defense", label)), Defense))
        for label in labels
    ]


def setting_of(matrix: Matrix) -> Setting:
    """What methods are checked against."""
    spec, data = matrix.spec, matrix.context.server_data
    return Setting.of(
        spec.clients,
        num_malicious=spec.malicious,
        rounds=matrix.context.rounds,
        num_classes=spec.num_classes,
        server_labels=None if data is None else data.labels,
    )


def check_subjects(subjects: Sequence[Subject], matrix: Matrix) -> None:
    """Refuse a defense that cannot work on this matrix."""
    for subject in subjects:
        check_setting(subject.defense, setting_of(matrix))
