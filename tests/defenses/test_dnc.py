from __future__ import annotations

import numpy as np
import pytest

from defenses.dnc import DnC, leading_shares
from raysim.context import Setting
from raysim.errors import ConfigError
from tests.defenses.conftest import build_context, build_updates


def setting(cohort: int) -> Setting:
    return Setting(population=cohort, cohort=cohort, num_malicious=0, rounds=1, num_classes=2)


def test_by_hand(apply_once):
    # The mean is (1, 0). Along x the centred rows are -1, -1, -2, 4 (sum of squares 22), along y +-1, 0, 0 (2), and the
    # two directions do not mix: the leading one is x, and the shares of the squares there are 1, 1, 4 and 16 of 22.
    verdict = apply_once(DnC(num_byzantine=1), [[0.0, 1.0], [0.0, -1.0], [-1.0, 0.0], [5.0, 0.0]])
    np.testing.assert_allclose(verdict.scores, np.array([1, 1, 4, 16]) / 22, atol=1e-12)
    assert verdict.flagged.tolist() == [False, False, False, True]
    np.testing.assert_allclose(verdict.aggregate, [-1 / 3, 0], atol=1e-7)
    np.testing.assert_allclose(verdict.weights, [1 / 3, 1 / 3, 1 / 3, 0])


def by_definition(rows: np.ndarray, masks: list[np.ndarray], drops: int) -> np.ndarray:
    """Rows that are kept by all repetitions, by a singular value decomposition of each."""
    kept = np.ones(len(rows), bool)
    for mask in masks:
        centred = rows[:, mask] - rows[:, mask].mean(axis=0)
        leading = np.linalg.svd(centred, full_matrices=False)[2][0]
        kept[np.argsort((centred @ leading) ** 2)[len(rows) - drops :]] = False
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_against_the_definition(seed):
    rows = np.random.default_rng(seed).standard_normal((9, 40)).astype(np.float32)
    defense = DnC(num_byzantine=2, repeats=3, filter_fraction=1.5, dimensions=12)
    updates = build_updates(rows)
    context = build_context(updates, seed=seed)
    verdict, _ = defense.apply({}, updates, context)
    masks = [
        context.generator("dimensions", n).choice(40, 12, replace=False, shuffle=False) for n in range(3)
    ]
    kept = by_definition(rows.astype(np.float64), masks, 3)
    assert verdict.flagged.tolist() == (~kept).tolist()
    np.testing.assert_allclose(verdict.aggregate, rows[kept].mean(axis=0), rtol=1e-5, atol=1e-7)


def test_equal_rows_have_no_leading_direction():
    assert leading_shares(np.zeros((3, 3))).tolist() == [0, 0, 0]


def test_none_assumes_the_most_that_is_tolerated(apply_once):
    rows = np.random.default_rng(1).standard_normal((9, 4))
    assert apply_once(DnC(), rows).flagged.sum() == 4
    assert DnC().assumed(9) == 4


def test_repetitions_that_drop_everybody_leave_the_model(apply_once):
    # Each repetition sees one parameter, and drops the row that stands out there.
    rows = np.eye(3) * [[1.0], [2.0], [3.0]]
    defense = DnC(num_byzantine=1, repeats=40, dimensions=1)
    verdict = apply_once(defense, rows)
    assert verdict.flagged.all()
    assert not verdict.aggregate.any()


def test_refuses_half_of_the_clients():
    DnC(num_byzantine=3).check(setting(7))
    with pytest.raises(ConfigError) as caught:
        DnC(num_byzantine=3).check(setting(6))
    assert (caught.value.key, caught.value.value, caught.value.nearest) == ("num_byzantine", 3, 2)
    with pytest.raises(ConfigError, match="filter_fraction: must leave one of 6 clients"):
        DnC(num_byzantine=2, filter_fraction=3).check(setting(6))
