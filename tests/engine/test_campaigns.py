"""Who is commanded, asked of a cohort."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.attack import Attack
from raysim.engine.campaigns import Campaign, among, commanded


@pytest.mark.parametrize("ids", [[], [4], [0, 3, 4, 9], list(range(50))])
@pytest.mark.parametrize("asked", [[], [4], [9, 0, 60, 3], [60]])
def test_membership_is_that_of_a_set(ids: list[int], asked: list[int]) -> None:
    assert among(asked, np.array(ids, np.int64)).tolist() == [client in set(ids) for client in asked]


def test_commanded_are_sorted_over_campaigns() -> None:
    several = [Campaign(Attack(), np.array(ids, np.int64)) for ids in ([5, 8], [1, 6])]
    assert commanded(several).tolist() == [1, 5, 6, 8]
    assert commanded(several[:1]) is several[0].client_ids
    assert commanded([]).tolist() == []
