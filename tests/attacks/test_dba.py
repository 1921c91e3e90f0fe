from __future__ import annotations

import numpy as np
import pytest
import torch

from attacks.dba import DBA
from attacks.triggers import dba_strips
from raysim.data.dataset import Dataset
from raysim.errors import ConfigError
from tests.attacks.local_attackers import Recorded, client_context, client_data, tiny_trainer


def lit(image: torch.Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in torch.argwhere(image == 1)}


def stamped_by(colluder: int, num_colluders: int, side: int = 28) -> set[tuple[int, int]]:
    ctx = client_context(tiny_trainer(), colluder=colluder, num_colluders=num_colluders)
    train = Recorded(np.zeros(ctx.layout.num_columns, np.float32))
    DBA().train(train, client_data(4, shape=(1, side, side)), ctx)
    images, _ = train.options["on_batch"](torch.zeros(2, 1, side, side), torch.zeros(2, dtype=torch.int64), 0)
    assert not images[1].any()
    return lit(images[0, 0])


@pytest.mark.parametrize(
    ("colluder", "row", "first"), [(0, 0, 0), (1, 0, 6), (2, 3, 0), (3, 3, 6), (4, 0, 0), (7, 3, 6)]
)
def test_attackers_stamp_the_strips_in_turn(colluder: int, row: int, first: int) -> None:
    assert stamped_by(colluder, 8) == {(row, column) for column in range(first, first + 4)}


def test_a_lone_attacker_stamps_all_four() -> None:
    assert stamped_by(0, 1) == {(int(r), int(c)) for r, c in np.concatenate(dba_strips(28, 28))}


def test_success_is_measured_with_all_four() -> None:
    test = Dataset(np.zeros((2, 3, 32, 32), np.uint8), np.array([0, 2]))
    result = DBA().triggered_test(test)
    assert result is not None
    assert result.labels.tolist() == [2]
    for channel in result.images[0]:
        assert lit(torch.from_numpy(channel // 255)) == {
            (row, column) for row in (0, 4) for column in (*range(6), *range(9, 15))
        }


def test_single_shots_are_honest_in_other_rounds() -> None:
    attack = DBA(shots=(12, 14, 16, 18), scale=100.0)
    update = np.ones(tiny_trainer().layout.num_columns, np.float32)
    for round, colluder, poisons in (
        (12, 0, True),
        (14, 0, False),
        (14, 1, True),
        (12, 4, True),
        (18, 7, True),
    ):
        ctx = client_context(tiny_trainer(), round=round, colluder=colluder, num_colluders=8)
        train = Recorded(update)
        result = attack.train(train, client_data(4), ctx)
        assert ("on_batch" in train.options) is poisons
        assert (result == (100 if poisons else 1)).all()


def test_negative_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match="shots"):
        DBA(shots=(-1,))
