"""What is read back from a run's directory: tables, frames, the final model, its short and its notebook form."""

from __future__ import annotations

import math
import sys

import numpy as np
import pyarrow as pa
import pytest

import raysim
from raysim.models import build_model
from raysim.runs.directory import COLUMNS, RunDirectory
from tests import federations

CONFIG = {**federations.smallest(), "model": {"name": "digits_cnn", "width": 0.25}}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return raysim.run(CONFIG, name="small", out=tmp_path_factory.mktemp("runs"), backend="inprocess")


@pytest.mark.parametrize("name", COLUMNS)
def test_tables_and_frames_hold_the_same_rows(result, name):
    pd = pytest.importorskip("pandas")
    table, frame = result.table(name), result.frame(name)
    assert isinstance(table, pa.Table)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == table.column_names == list(COLUMNS[name])
    assert len(frame) == len(table) > 0
    assert frame["round"].tolist() == table["round"].to_pylist()


def test_rounds_are_the_rows_as_dicts(result):
    assert [row["round"] for row in result.rounds] == [0, 1]
    assert 0 <= result.rounds[-1]["main_accuracy"] <= 1
    assert result.rounds[1]["clients"] == 6


def test_frame_without_pandas_says_what_to_do(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        result.frame("rounds")


def test_the_final_model_loads_into_the_network_that_was_trained(result):
    network = build_model("digits_cnn", num_classes=10, input_shape=(1, 8, 8), seed=1, width=0.25)
    state = result.state_dict()
    assert list(state) == list(network.state_dict())
    network.load_state_dict(state)
    vector = np.concatenate([tensor.numpy().ravel() for tensor in network.state_dict().values()])
    np.testing.assert_array_equal(vector, result.global_vector)


def test_a_missing_or_damaged_layout_is_named(result, tmp_path):
    copy = raysim.RunResult(tmp_path / "small")
    copy.path.symlink_to(result.path.absolute())
    odd = raysim.RunResult(tmp_path / "odd")
    odd.path.mkdir()
    with pytest.raises(raysim.RecordError, match=r"layout\.json: missing"):
        odd.state_dict()
    (odd.path / "layout.json").write_text('{"parameters": 3}')
    with pytest.raises(raysim.RecordError, match=r"layout\.json is damaged"):
        odd.state_dict()
    assert copy.state_dict()


def test_a_result_shows_itself_in_a_line_and_as_a_small_table(result):
    accuracy = result.rounds[-1]["main_accuracy"]
    assert repr(result) == (
        f"RunResult({str(result.path)!r}: krum against noise, 2 of 2 rounds, main accuracy {accuracy:.3f})"
    )
    shown = result._repr_html_()
    assert shown.startswith("<table>")
    assert shown.count("<tr>") == 3
    assert "<th>main accuracy</th>" in shown
    assert f"<td>{accuracy:.3f}</td>" in shown
    assert "attack success" not in shown, "no round has one"


def test_a_table_in_a_notebook_has_the_last_rounds_and_dashes_for_what_is_undefined(tmp_path):
    directory = RunDirectory(tmp_path / "<b>")
    directory.start("rounds: 12\n", {})
    known = {"notes": "", "clients": 1, "malicious": 0, "staleness_max": None}
    row = dict.fromkeys(COLUMNS["rounds"], math.nan) | known
    for number in range(12):
        row |= {
            "round": number,
            "flagged": 0,
            "accepted": 1,
            "main_accuracy": number / 16 if number % 2 else math.nan,
        }
        directory.write_round(number, row, [], [])
    shown = raysim.RunResult(directory.path)._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert shown.count("<tr>") == 11
    assert "<td>2</td><td>-</td>" in shown
    assert "<td>11</td><td>0.688</td>" in shown
    assert "<td>1</td>" not in shown


def test_a_result_without_a_run_still_shows_itself(tmp_path):
    empty = raysim.RunResult(tmp_path / "nothing")
    assert repr(empty).startswith("RunResult(")
    assert "nothing" in repr(empty)
    assert "<table>" in empty._repr_html_()
