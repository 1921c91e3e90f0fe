from __future__ import annotations

import numpy as np
import pytest

from defenses.signguard import SignGuard, largest_group
from raysim.errors import ConfigError
from tests.defenses.conftest import build_context, build_updates

ROWS = np.array(
    [
        [1.0, 1.0, 1.0, -1.0],  # 3 positive, 1 negative
        [2.0, 1.0, 1.0, -1.0],
        [1.0, -1.0, 1.0, 1.0],
        [-1.0, -1.0, -1.0, 1.0],  # 1 positive, 3 negative
        [30.0, 30.0, 30.0, -30.0],  # long
    ],
    np.float32,
)


def rounds(defense: SignGuard, *matrices, **options):
    verdicts, state = [], None
    for matrix in matrices:
        updates = build_updates(matrix, **options)
        context = build_context(updates)
        verdict, state = defense.apply(defense.init(context) if state is None else state, updates, context)
        verdicts.append(verdict)
    return verdicts


def test_by_hand():
    # Norms 2, sqrt(7), 2, 2 and 60 have median 2: the last is rejected. Of the signs, four rows have the shares (3, 0, 1)
    # and one (1, 0, 3), as shares of the largest (1, 0, 1/3) and (1/3, 0, 1).
    (verdict,) = rounds(SignGuard(share=1.0), ROWS)
    assert verdict.flagged.tolist() == [False, False, False, True, True]
    np.testing.assert_allclose(verdict.scores, [0, 0, 0, np.sqrt(2) * 2 / 3, 2], atol=1e-12)
    clipped = ROWS[:3] * np.array([1, 2 / np.sqrt(7), 1])[:, None]
    np.testing.assert_allclose(verdict.aggregate, clipped.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(verdict.weights, [1 / 3, 1 / 3, 1 / 3, 0, 0])


def test_short_updates_are_rejected_too():
    rows = ROWS[:3].copy()
    rows[1] *= 0.05
    (verdict,) = rounds(SignGuard(share=1.0), rows)
    assert verdict.flagged.tolist() == [False, True, False]


def test_a_window_is_consecutive_and_random_parameters_are_as_many():
    context = build_context(build_updates(np.zeros((2, 50))))
    window = SignGuard(parameters="window", share=0.3).drawn(50, context)
    assert window.sum() == 15
    assert np.ptp(np.flatnonzero(window)) == 14
    drawn = SignGuard(share=0.3).drawn(50, context)
    assert drawn.sum() == 15
    assert np.ptp(np.flatnonzero(drawn)) > 14


def test_only_drawn_parameters_are_counted_and_tiles_do_not_matter():
    rows = np.random.default_rng(0).standard_normal((7, 60)).astype(np.float32)
    rows[5:] = -np.abs(rows[5:])
    (verdict,) = rounds(SignGuard(share=0.5), rows)
    (tiled,) = rounds(SignGuard(share=0.5), rows, rows_per_block=2, bounds=(0, 11, 60))
    assert tiled.scores.tobytes() == verdict.scores.tobytes()
    mask = SignGuard(share=0.5).drawn(60, build_context(build_updates(rows)))
    shares = np.stack([(rows[:, mask] > 0).mean(axis=1), (rows[:, mask] < 0).mean(axis=1)], axis=1)
    shares /= shares.max(axis=0)
    group = largest_group(np.insert(shares, 1, 0.0, axis=1))  # no value is zero
    assert verdict.flagged.tolist() == (~group).tolist()
    assert group[:5].any()
    assert not group[5:].any()
    expected = np.linalg.norm(shares - shares[group].mean(axis=0), axis=1)
    np.testing.assert_allclose(verdict.scores, expected, rtol=1e-6)


def test_the_cosine_is_clipped_at_its_median_and_a_fifth():
    # In the first round medians of the cosines, in the second the cosine to the first aggregate, (1, 0).
    one, two = [[1.0, 0.0]] * 3, [[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]]
    defense = SignGuard(similarity="cosine", share=1.0)
    updates = build_updates(two)
    context = build_context(updates)
    last = np.array([1.0, 0.0], np.float32)
    np.testing.assert_allclose(defense.alikeness(updates, last, context), [0.2, 0.2, 0.0])
    # Cosines of the rows: 1, .6, -1; .6, 1, -.6; -1, -.6, 1, with medians .6, .6 and -.6.
    np.testing.assert_allclose(defense.alikeness(updates, None, context), [0.2, 0.2, 0.0])
    first, second = rounds(defense, one, two)
    assert first.aggregate.tolist() == [1.0, 0.0]
    features = np.array([[0.5, 1.0, 0.0, 0.2], [1.0, 0.0, 0.0, 0.2], [0.0, 1.0, 1.0, 0.0]])
    group = largest_group(features)
    expected = np.linalg.norm(features - features[group].mean(axis=0), axis=1)
    np.testing.assert_allclose(
        second.scores, expected + np.array([0, 2, 0]), err_msg="norms 1, 5, 1: the second is rejected"
    )


def test_a_distance_above_the_median_is_a_fifth():
    defense = SignGuard(similarity="distance", share=1.0)
    updates = build_updates([[1.0, 0.0], [3.0, 4.0], [-1.0, 0.0]])
    context = build_context(updates)
    # To (1, 0): 0, sqrt(20) and 2, of which the median is 2.
    last = np.array([1.0, 0.0], np.float32)
    np.testing.assert_allclose(defense.alikeness(updates, last, context), [0, 0.2, 0])
    # The smallest of the distances to all, one itself, is 0 for everybody: all are at the median.
    np.testing.assert_allclose(defense.alikeness(updates, None, context), [0.2, 0.2, 0.2])


def test_groups_of_equal_rows_need_no_bandwidth():
    features = np.array([[1.0], [1.0], [1.0], [0.0], [0.0]])
    assert largest_group(features).tolist() == [True, True, True, False, False]
    assert largest_group(features[:1]).tolist() == [True]


@pytest.mark.parametrize(("options", "key"), [({"lower": 1.5}, "lower"), ({"upper": 0.5}, "upper")])
def test_refuses_bounds_that_reject_the_median(options, key):
    with pytest.raises(ConfigError, match="must let the median norm itself pass") as caught:
        SignGuard(**options)
    assert caught.value.key == key
