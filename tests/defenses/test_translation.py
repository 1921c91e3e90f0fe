"""Rules made of distances or order statistics move with the updates: the same for updates and for models."""

from __future__ import annotations

import numpy as np
import pytest

from defenses.bulyan import Bulyan
from defenses.krum import Krum
from defenses.median import Median
from defenses.multi_krum import MultiKrum
from defenses.rfa import RFA
from defenses.trimmed_mean import TrimmedMean

RULES = [Krum(num_byzantine=2), MultiKrum(num_byzantine=2), TrimmedMean(trim=2), Median(), Bulyan(), RFA()]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_translation_moves_the_aggregate_and_nothing_else(apply_once, rule):
    draw = np.random.default_rng(0)
    # Multiples of 2^-10, so that float32 sums are exact and both inputs describe the same points.
    rows = np.round(draw.standard_normal((11, 300)) * 2**10).astype(np.float32) / np.float32(2**10)
    shift = np.round(draw.standard_normal(300) * 2**12).astype(np.float32) / np.float32(2**6)
    here, there = apply_once(rule, rows), apply_once(rule, rows + shift)
    np.testing.assert_allclose(there.aggregate, here.aggregate + shift, rtol=1e-6, atol=1e-5)
    for name in ("weights", "scores", "flagged"):
        first, second = getattr(here, name), getattr(there, name)
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_allclose(first, second, rtol=1e-8)
