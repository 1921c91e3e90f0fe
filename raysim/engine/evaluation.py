"""How good a global model is: on the clean test set and on each triggered one."""

from __future__ import annotations

import numpy as np

from raysim.backends.base import Backend, Reference
from raysim.engine.experiment import Experiment
from raysim.errors import RunError
from raysim.metrics import Measure


def evaluate(
    experiment: Experiment, backend: Backend, round: int, published: Reference, began: np.ndarray
) -> list[Measure]:
    """The published model [d + b] on the clean test set and on each triggered one; [] in rounds without evaluation.

    It is read where it lies, as far as one host's calls go, while it is on its way to the others for the next round.
    began: the global vector [d + b] before the round, by which attacks may adapt their trigger.
    """
    config = experiment.config.evaluation
    if (round + 1) % config.every and round + 1 != experiment.config.rounds:
        return []
    adapting = experiment.setup.adapting
    beside = (round, backend.put(began)) if adapting else ()
    items, owners = [], []
    for which, size in enumerate(experiment.test_sizes):
        batches = -(-size // config.batch_size)
        per_call = config.batch_size * max(1, -(-batches // backend.hosts))
        for first in range(0, size, per_call):
            part = (published, which, first, min(first + per_call, size))
            items.append((*part, *beside) if which in adapting else part)
            owners.append(which)
    near = backend.homes([published]) * len(items)
    answers = backend.call_clients("evaluate", "evaluate", items, near=near)
    results = []
    for which in range(len(experiment.test_sizes)):
        batches_of = [answer for answer, owner in zip(answers, owners, strict=True) if owner == which]
        if any(answer is None for answer in batches_of):
            raise RunError(
                "a part of the test set could not be evaluated: its host failed too often", stage="evaluate"
            )
        total = np.concatenate(batches_of).sum(axis=0)
        results.append(Measure.of(*total))
    return results
