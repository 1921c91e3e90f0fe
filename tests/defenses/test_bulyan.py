from __future__ import annotations

import numpy as np
import pytest

from defenses.bulyan import Bulyan, select
from raysim.context import Setting
from raysim.errors import ConfigError


def bulyan_by_definition(rows: np.ndarray, num_byzantine: int) -> tuple[np.ndarray, list[int]]:
    """(aggregate, selected rows): repeated Krum with fresh distances, then the values nearest the median."""
    left = list(range(len(rows)))
    selected: list[int] = []
    while len(selected) < len(rows) - 2 * num_byzantine:
        neighbours = max(len(left) - num_byzantine - 2, 1)
        scores = [
            sum(sorted(((rows[i] - rows[j]) ** 2).sum() for j in left if j != i)[:neighbours]) for i in left
        ]
        selected.append(left.pop(int(np.argmin(scores))))
    kept = len(selected) - 2 * num_byzantine
    aggregate = []
    for column in rows[sorted(selected)].T:
        middle = np.median(column)
        aggregate.append(np.mean(sorted(column, key=lambda value: (abs(value - middle), value))[:kept]))
    return np.array(aggregate), sorted(selected)


@pytest.mark.parametrize(("count", "num_byzantine"), [(7, 1), (11, 2), (15, 3), (17, 3), (6, 0)])
def test_against_the_definition(apply_once, count, num_byzantine):
    rows = np.random.default_rng(count).standard_normal((count, 20)).astype(np.float32)
    rows[-num_byzantine or count :] += 5
    aggregate, selected = bulyan_by_definition(rows.astype(np.float64), num_byzantine)
    verdict = apply_once(Bulyan(num_byzantine=num_byzantine), rows)
    np.testing.assert_allclose(verdict.aggregate, aggregate, rtol=1e-5, atol=1e-7)
    assert np.flatnonzero(~verdict.flagged).tolist() == selected
    assert verdict.flagged.sum() == 2 * num_byzantine
    assert verdict.weights is None


def test_by_hand(apply_once):
    # f = 1, K = 7. 9 and -50 are never selected; 3 of the selected 0, 1, 2, 3, 4 are nearest to their median 2.
    rows = [[0.0], [1.0], [2.0], [3.0], [4.0], [9.0], [-50.0]]
    verdict = apply_once(Bulyan(num_byzantine=1), rows)
    assert verdict.flagged.tolist() == [False] * 5 + [True, True]
    assert verdict.aggregate.tolist() == [2.0]


def test_selection_scores_among_the_rows_left():
    # Points on a line, f = 1, neighbours 4, 3, 2, 1, 1. Once 6, 5 and 1 are gone, 20 has the nearest neighbour.
    line = np.array([0.0, 1.0, 5.0, 6.0, 20.0, 30.0, 90.0])
    assert select((line[:, None] - line) ** 2, 1).tolist() == [3, 2, 1, 4, 0]


def test_permuting_clients_permutes_the_verdict(apply_once):
    # With f = 3 every choice looks at two neighbours or more, so that no two rows tie.
    draw = np.random.default_rng(5)
    rows = draw.standard_normal((15, 20)).astype(np.float32)
    order = draw.permutation(15)
    first, second = apply_once(Bulyan(), rows), apply_once(Bulyan(), rows[order])
    assert (second.flagged == first.flagged[order]).all()
    np.testing.assert_allclose(second.scores, first.scores[order], rtol=1e-12)
    assert second.aggregate.tobytes() == first.aggregate.tobytes()


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_fewer_rows_than_planned(apply_once, count):
    rows = np.random.default_rng(count).standard_normal((count, 3))
    verdict = apply_once(Bulyan(num_byzantine=2), rows)
    np.testing.assert_allclose(verdict.aggregate, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert not verdict.flagged.any()


def test_refuses_more_attackers_than_it_tolerates():
    eleven = Setting(population=11, cohort=11, num_malicious=0, rounds=1, num_classes=2)
    Bulyan(num_byzantine=2).check(eleven)
    with pytest.raises(ConfigError) as caught:
        Bulyan(num_byzantine=3).check(eleven)
    assert (caught.value.key, caught.value.nearest) == ("num_byzantine", 2)
