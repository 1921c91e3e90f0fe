"""Learning rates from round to round, by hand."""

from __future__ import annotations

import math

import pytest

from raysim.training.schedule import LearningRates


def test_the_three_schedules() -> None:
    assert [LearningRates("exponential", 0.5).factor(t) for t in range(4)] == [1, 0.5, 0.25, 0.125]
    assert [LearningRates("step", 0.5, 3).factor(t) for t in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    cosine = LearningRates("cosine", period=6)
    expected = [1, (1 + math.sqrt(3) / 2) / 2, 0.75, 0.5, 0.25, (1 - math.sqrt(3) / 2) / 2]
    assert [cosine.factor(t) for t in range(6)] == pytest.approx(expected)
    assert cosine.factor(6) == cosine.factor(60) == cosine.factor(5) > 0


def test_the_former_formula_keeps_its_bytes() -> None:
    rates = LearningRates("exponential", 0.998, 1)
    assert [0.1 * rates.factor(t) for t in range(50)] == [0.1 * 0.998**t for t in range(50)]
