from __future__ import annotations

import numpy as np
import pytest

from defenses.clip_norm import ClipNorm
from defenses.krum import Krum
from raysim.defense import chain
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout

ROWS = [[3.0, 4.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_by_hand(make_updates, make_context):
    updates = make_updates(ROWS, num_examples=[1, 2, 3])
    clipped, members, _ = ClipNorm(2.5).transform({}, updates, make_context(updates))
    assert clipped.to_array().tolist() == [[1.5, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert members is None
    assert clipped.num_examples.tolist() == [1, 2, 3]


def test_rows_within_the_bound_are_passed_on_as_they_are(make_updates, make_context):
    updates = make_updates(ROWS)
    assert ClipNorm(5.0).transform({}, updates, make_context(updates))[0] is updates


def test_buffers_stay(make_updates, make_context):
    layout = Layout((Entry("w", (2,), 0, 2),), (Entry("running_mean", (1,), 2, 3),))
    updates = make_updates([[6.0, 8.0, 100.0]], layout=layout)
    clipped, _, _ = ClipNorm(5.0).transform({}, updates, make_context(updates))
    assert clipped.to_array(buffers=True).tolist() == [[3.0, 4.0, 100.0]]


def test_against_byzfl(make_updates, make_context, byzfl):
    rows = np.random.default_rng(0).standard_normal((6, 5000)).astype(np.float32)
    updates = make_updates(rows)
    expected = byzfl.Clipping(70.0)(rows.astype(np.float64))
    found = ClipNorm(70.0).transform({}, updates, make_context(updates))[0].to_array()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not (found == rows).all()


def test_in_front_of_krum(apply_once):
    # Clipped to norm 1 the far row is the middle one.
    rows = [[0.8, 0.6], [1.0, 0.0], [60.0, 30.0], [0.0, 9.0], [-1.0, 0.0]]
    verdict = apply_once(chain(ClipNorm(1.0), Krum(num_byzantine=1)), rows)
    assert verdict.weights.tolist() == [0, 0, 1, 0, 0]
    np.testing.assert_allclose(verdict.aggregate, np.array([2, 1]) / np.sqrt(5), rtol=1e-6)


def test_range():
    with pytest.raises(ConfigError, match="bound"):
        ClipNorm(-1.0)
