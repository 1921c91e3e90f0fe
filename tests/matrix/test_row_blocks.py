"""Row blocks: how many rows they have, and how they are filled."""

from __future__ import annotations

import numpy as np
import pytest

from raysim.matrix.row_blocks import BLOCK_BYTES, cut, most_rows, put_row, rows_per_block, zero_tiles


@pytest.mark.parametrize(
    ("count", "megabytes", "workers", "rows"),
    [
        (8, 1, 2, 2),  # two blocks a worker
        (9, 1, 2, 3),  # three blocks: as near to four equal ones as whole rows go
        (3, 1, 8, 1),
        (24, 100, 2, 4),  # 5 would fit, but then one worker had three blocks and the other two
        (4, 2000, 2, 1),  # one row, however wide
    ],
)
def test_blocks_are_small_enough_and_divide_among_the_workers(
    count: int, megabytes: int, workers: int, rows: int
) -> None:
    columns = megabytes * 2**18
    assert rows_per_block(count, columns, workers) == rows
    assert rows == 1 or rows * 4 * columns <= BLOCK_BYTES


def test_a_block_has_at_least_one_row() -> None:
    assert most_rows(BLOCK_BYTES) == 1
    assert most_rows(BLOCK_BYTES // 4 // 3) == 3
    assert most_rows(0) >= 1


@pytest.mark.parametrize("bounds", [(0, 7), (0, 3, 7)])
def test_rows_put_in_one_by_one_are_the_rows_cut(bounds: tuple[int, ...]) -> None:
    rows = np.arange(36, dtype=np.float32).reshape(4, 9)
    tiles = zero_tiles(4, bounds, 9)
    for place in (2, 0, 3, 1):
        put_row(tiles, place, rows[place])
    expected = cut(rows, bounds)
    assert len(tiles) == len(bounds)
    assert all(np.array_equal(*pair) for pair in zip(tiles, expected, strict=True))
    assert all(tile.flags.c_contiguous for tile in expected)


def test_a_row_without_buffers_leaves_them_alone() -> None:
    tiles = zero_tiles(2, (0, 3, 7), 9)
    tiles[-1][:] = 5.0
    put_row(tiles, 1, np.arange(7, dtype=np.float64))
    assert tiles[0].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert tiles[1].tolist() == [[0, 0, 0, 0], [3, 4, 5, 6]]
    assert (tiles[-1] == 5.0).all()
