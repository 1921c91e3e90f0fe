"""Whether every defense judges on a GPU as it does on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from raysim.backends import devices
from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.defense import Verdict, judged
from raysim.studies.costs.subjects import FIRST_ROUND, Judging, check_subjects
from raysim.studies.matrix import MatrixSpec, build_matrix

TOLERANCE = 1e-3
"""By how much scores, weights and aggregate may differ, in their largest values; flags must not differ at all.

Both sides compute in the same precision and add in another order, which an autoencoder's hundreds of training steps
carry on.
"""

ROUNDS = 2
"""How many rounds are judged, the state of one handed to the next."""


@dataclass(frozen=True)
class Agreement:
    """How one defense's verdicts on the device compare with those on the CPU: the worst of all rounds.

    flags: clients of one that the other judged otherwise; None if the defense flags nobody. scores, weights,
    aggregate: largest difference, in the CPU's largest value; None if there are none. stages: those that ran on
    the device.
    """

    defense: str
    flags: int | None
    scores: float | None
    weights: float | None
    aggregate: float
    stages: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether flags are the same and everything else is within TOLERANCE."""
        parts = (self.scores, self.weights, self.aggregate)
        return not self.flags and all(part is None or part <= TOLERANCE for part in parts)


def agreement(subject: Judging, spec: MatrixSpec, device: str, threads: int) -> Agreement:
    """The defense on the same matrix, on the CPU and with its stages on the device."""
    expected, _ = _judge(subject, spec, InProcessBackend(threads=threads))
    found, stages = _judge(subject, spec, InProcessBackend(threads=threads, accelerator=device))
    pairs = list(zip(expected, found, strict=True))
    flags = [
        int(np.count_nonzero(left.flagged != right.flagged))
        for left, right in pairs
        if left.flagged is not None
    ]
    return Agreement(
        subject.label,
        max(flags) if flags else None,
        _worst([difference(left.scores, right.scores) for left, right in pairs]),
        _worst([difference(left.weights, right.weights) for left, right in pairs]),
        max(difference(left.aggregate, right.aggregate) or 0.0 for left, right in pairs),
        stages,
    )


def difference(expected: np.ndarray | None, found: np.ndarray | None) -> float | None:
    """Largest difference, in the largest value expected; infinite where only one is there, or finite.

    >>> difference(np.array([2.0, -4.0]), np.array([2.0, -3.0]))
    0.25
    """
    if expected is None and found is None:
        return None
    if expected is None or found is None or expected.shape != found.shape:
        return float("inf")
    same = expected == found  # infinities among them
    apart = np.abs(np.where(same, 0.0, expected) - np.where(same, 0.0, found))
    if not np.isfinite(apart).all():
        return float("inf")
    most = float(apart.max(initial=0.0))
    largest = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    if not most:
        return 0.0
    return most / largest if largest else float("inf")


def _judge(
    subject: Judging, spec: MatrixSpec, backend: InProcessBackend
) -> tuple[list[Verdict], tuple[str, ...]]:
    """The verdicts of each round, and the stages that were not on the CPU."""
    matrix = build_matrix(spec, backend)
    check_subjects([subject], matrix)
    context = replace(matrix.context, round=FIRST_ROUND)
    if subject.defense.calibration:
        context = replace(context, truth=matrix.updates.client_ids[matrix.truth])
    state, verdicts = subject.defense.init(context), []
    for number in range(ROUNDS):
        now = replace(context, round=FIRST_ROUND + number)
        verdict, state = judged(subject.defense, state, matrix.updates, now)
        verdicts.append(verdict)
    spans = [span for span in backend.telemetry.drain() if span.task == WHOLE_STAGE]
    return verdicts, tuple(dict.fromkeys(span.stage for span in spans if span.device != devices.CPU))


def _worst(parts: list[float | None]) -> float | None:
    return max((part for part in parts if part is not None), default=None)
