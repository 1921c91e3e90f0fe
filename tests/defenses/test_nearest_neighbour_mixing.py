from __future__ import annotations

import numpy as np
import pytest

from defenses.nearest_neighbour_mixing import NearestNeighbourMixing
from raysim.context import Setting
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout


def test_by_hand(make_updates, make_context):
    updates = make_updates([[0.0], [1.0], [3.0], [9.0], [10.0]])
    mixed, members, _ = NearestNeighbourMixing(num_byzantine=2).transform({}, updates, make_context(updates))
    assert mixed.to_array()[:, 0].tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 22 / 3, 22 / 3])
    assert members is None
    assert mixed.client_ids.tolist() == [0, 1, 2, 3, 4]


def test_against_byzfl(make_updates, make_context, byzfl):
    rows = np.random.default_rng(0).standard_normal((9, 6000)).astype(np.float32)
    updates = make_updates(rows)
    found, _, _ = NearestNeighbourMixing(num_byzantine=3).transform({}, updates, make_context(updates))
    expected = byzfl.NNM(3)(rows.astype(np.float64))
    np.testing.assert_allclose(found.to_array(), expected, rtol=1e-5, atol=1e-6)


def test_none_assumes_the_most_that_is_tolerated(make_updates, make_context):
    updates = make_updates([[0.0], [1.0], [5.0], [7.0]])
    mixed, _, _ = NearestNeighbourMixing().transform({}, updates, make_context(updates))
    assert mixed.to_array()[:, 0].tolist() == pytest.approx([2.0, 2.0, 13 / 3, 13 / 3])


def test_buffers_stay(make_updates, make_context):
    layout = Layout((Entry("w", (1,), 0, 1),), (Entry("running_mean", (1,), 1, 2),))
    updates = make_updates([[0.0, 5.0], [2.0, 6.0]], layout=layout)
    mixed, _, _ = NearestNeighbourMixing(num_byzantine=0).transform({}, updates, make_context(updates))
    assert mixed.to_array(buffers=True).tolist() == [[1.0, 5.0], [1.0, 6.0]]


def test_refuses_half_or_more():
    six = Setting(population=6, cohort=6, num_malicious=0, rounds=1, num_classes=2)
    NearestNeighbourMixing(num_byzantine=2).check(six)
    with pytest.raises(ConfigError) as caught:
        NearestNeighbourMixing(num_byzantine=3).check(six)
    assert (caught.value.key, caught.value.nearest) == ("num_byzantine", 2)
