from __future__ import annotations

import numpy as np
import pytest

from defenses.bucketing import Bucketing
from defenses.median import Median
from defenses.multi_krum import MultiKrum
from raysim.defense import chain
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout


@pytest.mark.parametrize(("count", "size"), [(6, 2), (7, 2), (7, 3), (2, 5), (1, 2)])
def test_rows_are_the_means_of_their_buckets(make_updates, make_context, count, size):
    rows = np.random.default_rng(count).standard_normal((count, 5)).astype(np.float32)
    updates = make_updates(rows, client_ids=10 + np.arange(count), num_examples=np.arange(count) + 1)
    mixed, members, _ = Bucketing(size).transform({}, updates, make_context(updates))
    assert members is not None
    sizes = np.bincount(members)
    assert sorted(sizes) == sorted([size] * (count // size) + [count % size] * (count % size > 0))
    for bucket, row in enumerate(mixed.to_array()):
        inside = np.flatnonzero(members == bucket)
        np.testing.assert_allclose(row, rows[inside].astype(float).mean(axis=0), rtol=1e-5, atol=1e-6)
        assert mixed.client_ids[bucket] == 10 + inside[0]
        assert mixed.num_examples[bucket] == (inside + 1).sum()
    assert (np.diff(mixed.client_ids) > 0).all()


def test_buckets_are_drawn_anew_each_round(make_updates, make_context):
    updates = make_updates(np.arange(20.0)[:, None])
    drawn = []
    for number in (1, 1, 2):
        _, members, _ = Bucketing(2).transform({}, updates, make_context(updates, round=number))
        assert members is not None
        drawn.append(members.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_buffers_are_averaged_with_the_bucket(make_updates, make_context):
    layout = Layout((Entry("w", (1,), 0, 1),), (Entry("running_mean", (1,), 1, 2),))
    updates = make_updates([[0.0, 5.0], [2.0, 6.0]], layout=layout)
    mixed, _, _ = Bucketing(2).transform({}, updates, make_context(updates))
    assert mixed.to_array(buffers=True).tolist() == [[1.0, 5.5]]


def test_a_verdict_on_buckets_becomes_one_on_clients(apply_once):
    rows = np.zeros((10, 3))
    rows[4] = 100
    verdict = apply_once(chain(Bucketing(2), MultiKrum(num_byzantine=1)), rows)
    assert verdict.aggregate.tolist() == [0, 0, 0]
    assert verdict.flagged.sum() == 2, "the attacker and whoever shared its bucket"
    assert verdict.flagged[4]
    np.testing.assert_allclose(verdict.weights, np.where(verdict.flagged, 0, 1 / 8))


def test_in_front_of_the_median(apply_once):
    rows = np.ones((8, 3))
    rows[0] = 1e6
    assert apply_once(chain(Bucketing(2), Median()), rows).aggregate.tolist() == [1, 1, 1]


def test_buckets_of_one_change_nothing_but_names(apply_once):
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    alone, bucketed = apply_once(Median(), rows), apply_once(chain(Bucketing(1), Median()), rows)
    assert alone.aggregate.tobytes() == bucketed.aggregate.tobytes()


def test_range():
    with pytest.raises(ConfigError, match="bucket_size"):
        Bucketing(0)
