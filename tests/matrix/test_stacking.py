"""Stacks of small row blocks: fewer arguments for column tasks, and the same bytes of all that is made of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from raysim.matrix import stacking
from raysim.matrix.new_rows import rows_from
from raysim.matrix.stacking import for_columns, stacked
from raysim.matrix.updates import Updates
from tests.simulated_nodes import SimulatedNodes

COUNT, DIM = 23, 5000


class Counting(SimulatedNodes):
    """Two nodes. widest: the most arguments of a task, by stage."""

    def __init__(self) -> None:
        super().__init__(2)
        self.widest: Counter[str] = Counter()

    def map(self, stage, fn, items, **how):  # type: ignore[no-untyped-def]
        self.widest[stage] = max(self.widest[stage], *(len(item) for item in items), 0)
        return super().map(stage, fn, items, **how)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "FEW", 3)
    monkeypatch.setattr(stacking, "FAN", 4)
    monkeypatch.setattr("raysim.matrix.updates.CHUNK_VALUES", 1)


def drawn() -> Updates:
    rows = np.random.default_rng(0).standard_normal((COUNT, DIM)).astype(np.float32)
    backend = Counting()
    updates = Updates.from_array(rows, backend, bounds=(0, 4096, DIM), rows_per_block=1)
    backend.spread(updates)
    return updates


def scaled(values: np.ndarray, first: int, row: int) -> np.ndarray:
    return values * np.float32(row + 1)


WAYS: dict[str, Callable[[Updates], object]] = {
    "gram": lambda u: u.gram(),
    "combine": lambda u: u.combine(np.linspace(-1, 1, u.num_clients)),
    "map_columns": lambda u: u.map_columns("median", _medians),
    "transform": lambda u: u.transform("sort", _sorted).to_array(),
    "select": lambda u: u.select(np.arange(1, u.num_clients, 3)).gram(),
    "select and combine": lambda u: u.select(np.arange(0, 20, 3)).combine(np.arange(7.0)),
    "rows": lambda u: u.to_array(),
    "replaced": lambda u: u.replace_rows(u.select(np.array([2, 7]))).combine(np.arange(float(COUNT))),
    "made anew": lambda u: rows_from(
        u, np.arange(COUNT)[::-1], "new", scaled, client_ids=u.client_ids, num_examples=u.num_examples
    ).combine(np.ones(COUNT)),
    "buffers": lambda u: u.combine_buffers(np.ones(COUNT)),
}


def _medians(columns: np.ndarray) -> np.ndarray:
    return np.median(columns, axis=0)


def _sorted(columns: np.ndarray, first: int) -> np.ndarray:
    return np.sort(columns, axis=0)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_whatever_is_made_of_the_rows_has_the_same_bytes(few: None, way: str) -> None:
    plain, after = drawn(), stacked(drawn())
    assert after.blocks[0].stack is not None
    expected, found = np.asarray(WAYS[way](plain)), np.asarray(WAYS[way](after))
    assert found.tobytes() == expected.tobytes()


def test_a_column_task_is_given_the_stacks_and_a_row_task_its_block(few: None) -> None:
    updates = stacked(drawn())
    backend = updates.backend
    assert isinstance(backend, Counting)
    assert backend.widest["stack"] == 4
    assert len(updates.blocks) == COUNT
    blocks = for_columns(updates.blocks)
    assert len(blocks) == 6, "three of at most four on either node"
    for block in blocks:
        assert len({node for tile in block.tiles for node in tile.nodes}) == 1
    assert np.sort(np.concatenate([block.positions for block in blocks])).tolist() == list(range(COUNT))
    updates.gram()
    assert backend.widest["gram"] == 1 + len(blocks)
    updates.map_rows("rows", list)
    assert sum(span.stage == "rows" and span.task >= 0 for span in backend.telemetry.spans) == COUNT


def test_few_blocks_and_large_ones_stay_as_they_are(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    updates = drawn()
    some = updates.select(np.arange(3))
    assert stacked(some) is some
    tile_bytes = 4 * DIM / 3  # of two shards, and no buffers
    monkeypatch.setattr(stacking, "OBJECT_BYTES", int(tile_bytes))
    assert stacked(updates) is updates
    monkeypatch.setattr(stacking, "OBJECT_BYTES", int(2.5 * tile_bytes))
    assert len(for_columns(stacked(updates).blocks)) == 12, "two together on either node"


def test_many_stacks_are_stacked_again_up_to_one_for_each_node(few: None, monkeypatch) -> None:
    monkeypatch.setattr(stacking, "FEW_STACKS", 3)
    updates = stacked(drawn())
    blocks = for_columns(updates.blocks)
    assert [len(block.positions) for block in blocks] == [12, 11]
    plain = drawn()
    for way in WAYS.values():
        assert np.asarray(way(updates)).tobytes() == np.asarray(way(plain)).tobytes()


def test_a_stack_holds_for_the_tiles_it_was_made_of_alone(few: None) -> None:
    updates = stacked(drawn())
    (other,) = Updates.from_array(
        np.zeros((1, DIM), np.float32), updates.backend, bounds=(0, 4096, DIM)
    ).blocks
    blocks = (replace(updates.blocks[0], tiles=other.tiles), *updates.blocks[1:])
    found = replace(updates, blocks=blocks).combine(np.eye(COUNT)[0])
    assert not found.any()


def test_rows_of_the_same_tiles_are_given_once() -> None:
    updates = Updates.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), Counting())
    (block,) = updates.blocks
    parted = [replace(block, positions=np.array([n]), rows=np.array([n])) for n in (2, 0, 3, 1)]
    (whole,) = for_columns(tuple(parted))
    assert whole.tiles is block.tiles
    assert whole.positions.tolist() == whole.rows.tolist() == [2, 0, 3, 1]
    again = replace(updates, blocks=tuple(parted))
    assert again.gram().tobytes() == updates.gram().tobytes()
