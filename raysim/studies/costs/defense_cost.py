"""What a defense's `apply` costs on a matrix that is there already: whole, and stage by stage."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE, Span
from raysim.composition.registry import make
from raysim.config.method_text import parse_method
from raysim.config.schema import Component
from raysim.config.yaml_text import values_in
from raysim.context import Setting
from raysim.defense import Defense, check_setting, judged
from raysim.errors import ConfigError
from raysim.studies.limits import copy_matrix, gram_product
from raysim.studies.matrix import Matrix
from raysim.studies.memory import MemoryWatch
from raysim.studies.timing import Clock, seconds

BETWEEN = "(between stages)"

FIRST_ROUND = 100
"""The round that is measured first: late enough for what begins later in a run (FedGrad's hard filter: round 50)."""


@dataclass(frozen=True)
class Subject:
    """A defense to measure: `krum`, or with options behind commas, `pdrr,rule=median`."""

    label: str
    defense: Defense

    @property
    def name(self) -> str:
        """The registered name."""
        return self.label.partition(",")[0]


@dataclass(frozen=True)
class StageCost:
    """One stage of a defense, over the repeats: seconds [R]; the rest of the last repeat."""

    wall_s: np.ndarray
    bytes_in: int
    bytes_out: int
    tasks: int
    nodes: int
    peak_bytes: int


@dataclass(frozen=True)
class DefenseCost:
    """Seconds [R] of `apply` and, measured directly before each, of the limits."""

    label: str
    apply_s: np.ndarray
    copy_s: np.ndarray
    gram_s: np.ndarray
    stages: dict[str, StageCost] = field(default_factory=dict)
    resident_peak: int = 0
    """Largest resident memory of any process, in a pass of its own."""
    task_memory: int = 0
    """The most private memory that one process took, plus the tiles of its largest task."""

    def stage_s(self, name: str) -> np.ndarray:
        """Seconds [R] of a stage; a stage that did not run took none."""
        return self.stages[name].wall_s if name in self.stages else np.zeros(len(self.apply_s))


def parse_subjects(names: Sequence[str], given: Sequence[str] = ()) -> list[Subject]:
    """The defenses named, each `name` or `name,key=value,...`, with `defense.key=value` options on top."""
    from defenses.table import DEFENSES

    extra: dict[str, dict[str, Any]] = {}
    for option in given:
        key, equals, value = option.partition("=")
        name, dot, field_name = key.partition(".")
        if not (equals and dot and field_name):
            raise ConfigError("option", "must have the form defense.key=value", option)
        if name not in [word.partition(",")[0] for word in names]:
            raise ConfigError("option", "must name a defense that is measured", option)
        extra.setdefault(name, {})[field_name] = values_in(value, key)
    subjects = []
    for word in names:
        named = parse_method("defense", word)
        name = named["name"]
        values = {**extra.get(name, {}), **named}
        options = [f"{key}={value}" for key, value in values.items() if key != "name"]
        label, component = ",".join([name, *options]), Component(**values)
        subjects.append(Subject(label, make("defense", DEFENSES, component, Defense)))
    return subjects


def check_subjects(subjects: Sequence[Subject], matrix: Matrix) -> None:
    """Refuse a defense that cannot work on this matrix."""
    spec, data = matrix.spec, matrix.context.server_data
    setting = Setting.of(
        spec.clients,
        num_malicious=spec.malicious,
        rounds=matrix.context.rounds,
        num_classes=spec.num_classes,
        server_labels=None if data is None else data.labels,
    )
    for subject in subjects:
        check_setting(subject.defense, setting)


def measure_defense(subject: Subject, matrix: Matrix, repeats: int) -> DefenseCost:
    """One warm-up, `repeats` timed rounds with the limits before each, and one round that watches memory.

    The state goes on from round to round, as in a run, whose round FIRST_ROUND comes first. What needs more rounds of
    history than that (FLDetector's clusters) does not run.
    """
    updates, telemetry = matrix.updates, matrix.updates.backend.telemetry
    context = replace(matrix.context, round=FIRST_ROUND)
    if subject.defense.calibration:
        context = replace(context, truth=updates.client_ids[matrix.truth])
    state = subject.defense.init(context)
    _, state = judged(subject.defense, state, updates, context)
    copies, grams, applies, every = [], [], [], []
    for repeat in range(1, repeats + 1):
        gc.collect()
        copies.append(seconds(copy_matrix, updates))
        grams.append(seconds(gram_product, updates))
        telemetry.drain()
        now = replace(context, round=FIRST_ROUND + repeat)
        clock = Clock()
        _, state = judged(subject.defense, state, updates, now, clock)
        applies.append(clock.seconds)
        every.append(telemetry.drain())
    gc.collect()
    watch = MemoryWatch()
    judged(subject.defense, state, updates, replace(context, round=FIRST_ROUND + repeats + 1), watch)
    largest = max((span.bytes_in for span in telemetry.drain() if span.task != WHOLE_STAGE), default=0)
    mapped = 0 if isinstance(updates.backend, InProcessBackend) else largest
    return DefenseCost(
        subject.label,
        np.array(applies),
        np.array(copies),
        np.array(grams),
        stage_costs(every, np.array(applies)),
        watch.peak,
        watch.growth + mapped,
    )


def stage_costs(every: Sequence[Sequence[Span]], apply_s: np.ndarray) -> dict[str, StageCost]:
    """The spans of each repeat by stage, in the order they ran; what lies between them last."""
    names = dict.fromkeys(span.stage for spans in every for span in spans if span.task == WHOLE_STAGE)
    stages = {}
    spent = np.zeros(len(every))
    for name in names:
        wall = np.array(
            [sum(s.wall_s for s in spans if s.stage == name and s.task == WHOLE_STAGE) for spans in every]
        )
        spent += wall
        last = [span for span in every[-1] if span.stage == name]
        whole = [span for span in last if span.task == WHOLE_STAGE]
        tasks = [span for span in last if span.task != WHOLE_STAGE]
        stages[name] = StageCost(
            wall,
            sum(span.bytes_in for span in whole),
            sum(span.bytes_out for span in whole),
            len(tasks),
            len({span.node for span in last}),
            max((span.peak_memory_bytes for span in last), default=0),
        )
    stages[BETWEEN] = StageCost(np.maximum(apply_s - spent, 0.0), 0, 0, 0, 1, 0)
    return stages
