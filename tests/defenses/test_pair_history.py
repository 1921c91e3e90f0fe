"""FedGrad's memory of pairs in tiles: what the arrays remember, and nothing of pairs that never met."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raysim.matrix.pairs
from defenses import pair_history
from defenses.fedgrad import FedGrad
from raysim.backends.base import InProcessBackend
from raysim.backends.left_behind import LeftBehind
from raysim.matrix.layout import Entry, Layout
from raysim.runs import checkpoint

LAYOUT = Layout(
    (Entry("body", (4,), 0, 4), Entry("head.weight", (3, 2), 4, 10), Entry("head.bias", (3,), 10, 13))
)
ROUNDS, POPULATION, COHORT = 6, 24, 9


class Head:
    """A model of which only the last layer is known."""

    head = "head"


@pytest.fixture
def play(make_updates, make_context):
    """play(defense, folder=None) -> (verdicts, state): some rounds; with a folder, resumed from a checkpoint before each."""

    def rounds(defense: FedGrad, folder: Path | None = None) -> tuple[list[Any], Any]:
        draw, state, verdicts = np.random.default_rng(3), None, []
        for round in range(ROUNDS):
            ids = np.sort(draw.choice(POPULATION, COHORT, replace=False))
            rows = draw.normal(size=(COHORT, LAYOUT.dim)).astype(np.float32)
            rows[:3, 4:] += np.float32(2)
            updates = make_updates(rows, layout=LAYOUT, client_ids=ids)
            context = make_context(updates, factory=Head(), round=round)
            verdict, state = defense.apply(
                defense.init(context) if state is None else state, updates, context
            )
            if folder is not None:
                path = checkpoint.save(folder, round + 1, {"defense": state}, keep=1)
                state = checkpoint.load(path)["defense"]
            verdicts.append(verdict)
        return verdicts, state

    return rounds


@pytest.fixture
def in_tiles(monkeypatch: pytest.MonkeyPatch):
    """From now on, blocks of 4 ids and sides of 4 rows, from the smallest matrix on."""

    def switch() -> None:
        monkeypatch.setattr(raysim.matrix.pairs, "WHOLE_BYTES", 0)
        monkeypatch.setattr(raysim.matrix.pairs, "SIDE", 4)
        monkeypatch.setattr(pair_history, "NARROWEST", 4)

    return switch


def remembered(state: Any) -> dict[tuple[int, int], tuple[float, float, int]]:
    """{(higher id, lower id): (weights' similarity, biases', number)} of all pairs that met."""
    found = {}
    if "pairs" not in state:
        ids = state["clients"].tolist()
        for i, one in enumerate(ids):
            for j, other in enumerate(ids[: i + 1]):
                if state["together"][i, j]:
                    values = (state[name][i, j] for name in pair_history.SIMILARITIES)
                    found[one, other] = (*values, state["together"][i, j])
        return found
    width = state["pairs"]["width"]
    for name, tile in state["pairs"]["tiles"].items():
        rows, columns = (int(part) * width for part in name.split("-"))
        tile = tile.value if isinstance(tile, LeftBehind) else tile
        keys = pair_history.keys_in(tile, width, rows == columns).astype(int)
        assert (np.diff(keys) > 0).all()
        for place, key in enumerate(keys.tolist()):
            values = (tile[kind][place] for kind in (*pair_history.SIMILARITIES, "together"))
            found[rows + key // width, columns + key % width] = tuple(values)
    return found


@pytest.mark.parametrize("population", [COHORT, POPULATION])
@pytest.mark.parametrize("similarity", ["pair", "batch", "matrix", "transitive"])
def test_tiles_remember_what_arrays_do(
    play, in_tiles, tmp_path, monkeypatch, similarity: str, population: int
) -> None:
    """Of as many clients as meet in a round, the same pairs meet in every one."""
    monkeypatch.setattr(sys.modules[__name__], "POPULATION", population)
    defense = FedGrad(similarity=similarity, switch_round=2)  # type: ignore[arg-type]
    whole, arrays = play(defense)
    in_tiles()
    tiled, tiles = play(defense)
    resumed, reloaded = play(defense, tmp_path)
    assert any(verdict.flagged.any() for verdict in whole[2:])
    for one, other, again in zip(whole, tiled, resumed, strict=True):
        np.testing.assert_array_equal(one.flagged, other.flagged)
        np.testing.assert_array_equal(one.scores, other.scores)
        assert other.aggregate.tobytes() == again.aggregate.tobytes()
    expected, found = remembered(arrays), remembered(tiles)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(
        np.array([found[pair] for pair in expected]), np.array(list(expected.values())), atol=1e-6
    )
    assert remembered(reloaded) == found
    assert not set(tiles) & {"together", *pair_history.SIMILARITIES}


def test_memory_grows_with_pairs_that_met(play, in_tiles) -> None:
    in_tiles()
    _, state = play(FedGrad())
    pairs = remembered(state)
    assert len(pairs) < POPULATION * (POPULATION + 1) / 2
    held = sum(array.nbytes for tile in state["pairs"]["tiles"].values() for array in tile.value.values())
    assert 9 * len(pairs) < held <= 13 * len(pairs)


def test_numbers_of_meetings_widen_when_they_must() -> None:
    """The 256th meeting of three clients, and the first of a fourth with them: counts go from 8 to 16 bits, none wraps."""
    backend = InProcessBackend()
    clients, width = np.arange(3), 4
    before = {
        "rows": np.arange(3, dtype=np.uint32),
        "columns": np.arange(3, dtype=np.uint32),
        **{name: np.zeros(6, np.float32) for name in pair_history.SIMILARITIES},
        "together": np.full(6, 255, np.uint8),
    }
    history: Any = {"width": width, "tiles": {"0-0": before}}
    for cohort in (clients, np.arange(4)):
        vectors = (np.eye(len(cohort), 4), np.eye(len(cohort), 4))
        _, history = pair_history.met(history, cohort, vectors, "pair", backend)
    tile = history["tiles"]["0-0"].value
    assert tile["together"].dtype == np.uint16
    assert tile["together"].tolist() == [257] * 6 + [1] * 4


def test_arrays_become_tiles_when_there_are_too_many_clients(play, in_tiles, monkeypatch) -> None:
    whole, arrays = play(FedGrad())
    in_tiles()
    monkeypatch.setattr(raysim.matrix.pairs, "WHOLE_BYTES", 8 * (COHORT + 3) ** 2)
    mixed, state = play(FedGrad())
    assert "pairs" in state
    for one, other in zip(whole, mixed, strict=True):
        np.testing.assert_array_equal(one.flagged, other.flagged)
    assert remembered(state).keys() == remembered(arrays).keys()


def test_scaled_columns_stay_arrays(play, in_tiles) -> None:
    in_tiles()
    _, state = play(FedGrad(scale_similarities=True))
    assert state["together"].shape == (len(state["clients"]),) * 2
