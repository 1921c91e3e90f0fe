"""CosDefense on hand-computed last layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from defenses.cosdefense import CosDefense
from raysim.errors import ConfigError
from raysim.matrix.layout import Entry, Layout

LAYOUT = Layout((Entry("head.weight", (2, 1), 0, 2), Entry("head.bias", (1,), 2, 3)))
GLOBAL = np.array([2.0, 0.0, 7.0], np.float32)
# cosines of the weights with (1, 0): 1, 0, -0.6, 0.8 and 0 for no update; the bias counts for nothing
ROWS = [[3, 0, 50], [0, 2, 0], [-3, 4, 0], [4, 3, 0], [0, 0, 1]]


@pytest.fixture
def judge(make_updates: Callable, make_context: Callable, tiny_model: Any) -> Callable:
    def run(defense: CosDefense, rows: Any) -> Any:
        updates = make_updates(rows, layout=LAYOUT)
        return defense.apply(
            {}, updates, make_context(updates, factory=tiny_model.factory, global_vector=GLOBAL)
        )[0]

    return run


def test_update_cosines_by_hand(judge: Callable) -> None:
    verdict = judge(CosDefense(), ROWS)
    assert verdict.scores.tolist() == pytest.approx([1, 0, 0.6, 0.8, 0])
    assert verdict.flagged.tolist() == [True, False, True, True, False]  # the mean is 0.48


def test_far_above_average(judge: Callable) -> None:
    # the standard deviation of the scores is 0.412: the threshold is 0.892
    assert judge(CosDefense(deviations=1.0), ROWS).flagged.tolist() == [True, False, False, False, False]


def test_model_cosines_by_hand(judge: Callable) -> None:
    # models: (5, 0), (2, 2), (-1, 4), (6, 3)
    cosines = np.array([1, 1 / np.sqrt(2), 1 / np.sqrt(17), 2 / np.sqrt(5)])
    expected = (cosines - cosines.min()) / (1 - cosines.min())
    verdict = judge(CosDefense(vector="model"), ROWS[:4])
    assert verdict.scores.tolist() == pytest.approx(expected.tolist())
    assert verdict.flagged.tolist() == [True, False, False, True]
    assert verdict.aggregate.tolist() == [-1.5, 3, 0]


def test_equal_cosines_accept_all(judge: Callable) -> None:
    assert not judge(CosDefense(), [[1, 1, 0]] * 3).flagged.any()
    assert not judge(CosDefense(), [[0, 0, 0]] * 3).flagged.any()
    assert not judge(CosDefense(), [[3, 4, 0]]).flagged.any()


def test_refuses() -> None:
    with pytest.raises(ConfigError, match="did you mean 'update'"):
        CosDefense(vector="updates")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="deviations"):
        CosDefense(deviations=-1)
