from __future__ import annotations

import numpy as np

from defenses.fedavg import FedAvg

ROWS = [[1.0, 0.0, 2.0], [3.0, 4.0, 2.0]]


def test_weighted_by_examples(apply_once):
    verdict = apply_once(FedAvg(), ROWS, num_examples=[1, 3])
    assert verdict.aggregate.tolist() == [2.5, 3.0, 2.0]
    assert verdict.weights.tolist() == [0.25, 0.75]
    assert verdict.flagged is None
    assert verdict.scores is None


def test_uniform(apply_once):
    verdict = apply_once(FedAvg(uniform=True), ROWS, num_examples=[1, 3])
    assert verdict.aggregate.tolist() == [2.0, 2.0, 2.0]


def test_nobody_claims_an_example(apply_once):
    verdict = apply_once(FedAvg(), ROWS, num_examples=np.zeros(2, np.int64))
    assert verdict.aggregate.tolist() == [2.0, 2.0, 2.0]
