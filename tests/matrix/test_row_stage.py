"""Row stages begun ahead: what is kept, what is dropped with the rows it was made of, and what is made anew."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest

import defenses.heat_maps
import raysim
from raysim.backends.base import InProcessBackend
from raysim.matrix.row_stage import RowStage, begin_ahead, on_block
from raysim.matrix.updates import Updates


@dataclass
class Sums:
    """Sums of rows times a factor, and the rows it was asked for."""

    rows: list[list[float]] = field(default_factory=list)
    fail: bool = False

    def __call__(self, block: np.ndarray, factor: float) -> list[float]:
        if self.fail:
            raise ZeroDivisionError
        self.rows += block.tolist()
        return list(factor * block.sum(axis=1))


MATRIX = np.arange(12, dtype=np.float32).reshape(6, 2)


def begun(sums: Sums, members: list[int], factor: float = 2.0) -> tuple[Updates, RowStage]:
    """Six rows of clients 10..15 in one block, and a stage that was begun on some of them."""
    updates = Updates.from_array(MATRIX, InProcessBackend(), client_ids=np.arange(10, 16))
    stage = RowStage("sum", partial(on_block, sums), (factor,), buffers=False, key=(factor,))
    places, tiles = np.array(members), updates.blocks[0].tiles
    ahead = begin_ahead(updates.backend, stage, 0, updates.client_ids[places], places, tiles)
    return replace(updates, ahead=(ahead,)), stage


def test_only_rows_that_were_not_begun_are_computed():
    sums = Sums()
    updates, stage = begun(sums, [0, 2, 3])
    assert sums.rows == MATRIX[[0, 2, 3]].tolist()
    assert updates.map_row_stage(stage) == (2 * MATRIX.sum(axis=1)).tolist()
    assert sums.rows == MATRIX[[0, 2, 3, 1, 4, 5]].tolist()
    spans = updates.backend.telemetry.drain()
    assert [(span.stage, span.task) for span in spans] == [("sum", -1), ("sum", 0)] * 2


def test_selected_rows_keep_what_was_begun():
    sums = Sums()
    updates, stage = begun(sums, [0, 1, 2, 3, 4, 5])
    assert updates.select(np.array([1, 5])).map_row_stage(stage) == [10.0, 42.0]
    assert len(sums.rows) == 6


def test_replaced_rows_are_computed_anew():
    sums = Sums()
    updates, stage = begun(sums, [0, 1, 2, 3, 4, 5])
    crafted = Updates.from_array(-MATRIX[[1, 4]], updates.backend, client_ids=np.array([11, 14]))
    expected = 2 * np.where(np.isin(np.arange(6), [1, 4]), -1, 1) * MATRIX.sum(axis=1)
    assert updates.replace_rows(crafted).map_row_stage(stage) == expected.tolist()
    assert sums.rows[6:] == (-MATRIX[[1, 4]]).tolist()


def test_transformed_rows_are_all_computed_anew():
    updates, stage = begun(Sums(), [0, 1, 2, 3, 4, 5])
    doubled = updates.transform("double", lambda columns, first: 2 * columns)
    assert doubled.ahead == ()
    assert doubled.map_row_stage(stage) == (4 * MATRIX.sum(axis=1)).tolist()


def test_a_stage_of_another_key_or_of_none_takes_no_answers():
    updates, stage = begun(Sums(), [0, 1, 2, 3, 4, 5])
    other = replace(stage, shared=(3.0,), key=(3.0,))
    assert updates.map_row_stage(other) == (3 * MATRIX.sum(axis=1)).tolist()
    assert updates.map_rows("sum", Sums(), 5.0) == (5 * MATRIX.sum(axis=1)).tolist()


def test_what_failed_ahead_is_computed_later():
    sums = Sums(fail=True)
    updates, stage = begun(sums, [0, 1])
    sums.fail = False
    assert updates.map_row_stage(stage) == (2 * MATRIX.sum(axis=1)).tolist()
    assert sums.rows == MATRIX.tolist()


# -- the engine, in-process ------------------------------------------------------------------------------


def both(tiny, tmp_path, **changes):
    """The same run without and with the pipeline."""
    config = {**tiny, "resources": {"clients_per_actor": 3}, **changes}
    plain = raysim.run(config, name="plain", out=tmp_path, backend="inprocess")
    config["resources"] = {**config["resources"], "pipeline": True}
    return plain, raysim.run(config, name="pipelined", out=tmp_path, backend="inprocess")


def same(plain, other):
    assert other.digest == plain.digest
    for table in ("rounds", "clients"):
        assert (other.path / f"{table}.parquet").read_bytes() == (
            plain.path / f"{table}.parquet"
        ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "defense",
    [
        "layercam_ae",
        "gradcam_krum",
        "flare",
        "krum",
        ["clip_norm", "layercam_ae"],
        [{"name": "layercam_ae", "probe": "fixed"}, {"name": "layercam_krum"}],
    ],
    ids=str,
)
def test_the_pipeline_changes_no_result(tiny, tmp_path, defense):
    same(*both(tiny, tmp_path, defense=defense))


def test_a_client_with_nan_is_rejected_all_the_same(tiny, tmp_path):
    attack = {"name": "tests.faulty_methods:BadUpload"}
    plain, other = both(tiny, tmp_path, attack=attack, defense="layercam_ae")
    same(plain, other)
    assert {row["client"] for row in other.table("clients").to_pylist() if row["reason"]} == {8, 9}


@pytest.mark.parametrize("attack", ["noise", "sign_flip", "tests.faulty_methods:BadCraft", None], ids=str)
def test_every_row_that_is_judged_is_looked_at_once(tiny, tmp_path, monkeypatch, attack):
    """Rows of attackers who craft are looked at when crafted, and only then; the others as they arrive."""
    seen = []
    original = defenses.heat_maps.client_map

    def watched(model, cam_layer, probe):
        seen.append(original(model, cam_layer, probe))
        return seen[-1]

    monkeypatch.setattr(defenses.heat_maps, "client_map", watched)
    plain, other = both(tiny, tmp_path, attack=attack, defense="gradcam_krum", rounds=2)
    same(plain, other)
    assert len(seen) % 2 == 0
    judged = [row for row in other.table("clients").to_pylist() if not row["reason"]]
    assert len(seen) == 2 * len(judged)


def test_rows_are_worked_on_while_the_others_train(tiny, tmp_path):
    _, other = both(tiny, tmp_path, defense="flare", attack=None, rounds=1)
    spans = other.table("spans").to_pylist()
    (train,) = (span for span in spans if span["stage"] == "train" and span["task"] == -1)
    ahead = [span for span in spans if span["stage"] == "plr" and span["task"] >= 0]
    assert len(ahead) == 4
    assert all(span["start_s"] < train["start_s"] + train["wall_s"] for span in ahead)
