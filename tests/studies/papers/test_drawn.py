"""What the papers' figures show: rows read from a run's files, and figures drawn of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.errors import RecordError
from raysim.presets.preset import Preset
from raysim.runs.directory import schema
from raysim.runs.table_schema import TableSchema
from raysim.studies.papers.drawn import DRAWN, SIDE, drawn_rows, principal, shrunk
from raysim.studies.papers.figures import figures_of
from raysim.studies.table import Values


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """Two rounds of clients 0 and 3, the second an attacker that is flagged in the last round."""
    rows = [
        {"round": t, "client": client, "malicious": client == 3, "flagged": t == 1 and client == 3, "score": t + client}
        | {"num_examples": 1, "reason": ""}
        for t in range(2)
        for client in (0, 3)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=schema("clients")), tmp_path / "clients.parquet")
    return tmp_path


def artifacts(run: Path, **arrays: np.ndarray) -> None:
    folder = run / "artifacts" / "round-000001"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_nothing_is_drawn_of_most_cells(tmp_path):
    assert drawn_rows(tmp_path, None) == []


def test_scores_are_those_of_the_last_round(finished):
    assert drawn_rows(finished, "scores") == [
        {"client": 0, "malicious": False, "flagged": False, "series": "score", "place": 0, "value": 1.0},
        {"client": 3, "malicious": True, "flagged": True, "series": "score", "place": 0, "value": 4.0},
    ]


def test_maps_are_pixels_in_rows(finished):
    maps = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    artifacts(finished, heat_maps=maps, reconstructed_maps=-maps, client_ids=np.array([0, 3]))
    rows = drawn_rows(finished, "maps")
    assert [row["value"] for row in rows if row["series"] == "map" and row["client"] == 3] == [4, 5, 6, 7]
    assert [row["value"] for row in rows if row["series"] == "rebuilt"] == [-value for value in range(8)]
    assert [row["place"] for row in rows[:4]] == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["maps", "representations"])
def test_a_run_without_what_is_drawn_is_refused(finished, kind):
    with pytest.raises(RecordError, match=r"no (heat maps|representations)"):
        drawn_rows(finished, kind)


def test_large_maps_are_shrunk_to_means():
    maps = np.zeros((1, 2 * SIDE, 2 * SIDE), np.float32)
    maps[0, :2, :2] = [[1, 2], [3, 6]]
    assert shrunk(maps).shape == (1, SIDE, SIDE)
    assert shrunk(maps)[0, 0, 0] == 3
    assert shrunk(maps[:, :5, :5]).shape == (1, 5, 5)


def test_representations_lie_on_the_axes_of_most_spread(finished):
    # Spread 4 along the third coordinate, 1 along the first; mean (1, 0, 0).
    points = np.array([[[2.0, 0, 0], [0, 0, 0]], [[1, 0, 4], [1, 0, -4]]], np.float32)
    expected = [[[0, 1], [0, -1]], [[4, 0], [-4, 0]]]
    assert principal(points) == pytest.approx(np.array(expected))
    artifacts(finished, representations=points, mmd=np.array([[-0.5, 2.0], [2.0, -0.5]]))
    rows = drawn_rows(finished, "representations")
    of = {name: [row["value"] for row in rows if row["series"] == name] for name in ("x", "y", "mmd")}
    assert of == {"x": pytest.approx([0, 0, 4, -4]), "y": pytest.approx([1, -1, 0, 0]), "mmd": [2, 2]}


def test_a_single_component_has_no_second_axis():
    assert principal(np.array([[[1.0]], [[3.0]]])).tolist() == [[[-1, 0]], [[1, 0]]]


def test_figures_are_named_by_table_and_part():
    def preset(name: str, drawn=None, metrics=()) -> Preset:
        return Preset(f"paper/{name}", "", {}, {}, metrics, drawn=drawn)

    ranged = [preset(f"fig11-{rule}", metrics=("q_from@1", "q_to@1")) for rule in ("a", "b", "c", "d")]
    tables = {
        "fig4": [preset("fig4-krum", "scores")],
        "fig7": [preset("fig7-layercam_ae", "maps")],
        "fig6": [preset("fig6-class0", "representations")],
        "fig8": [preset("fig8-not_measured", "scores")],
        "fig11": ranged,
    }
    rows = [
        {"preset": name, "seed": seed, "client": client, "malicious": client == 1, "flagged": False, "series": word}
        | {"place": place, "value": float(place + client)}
        for name, series, places in (
            ("paper/fig4-krum", ("score",), 1),
            ("paper/fig7-layercam_ae", ("map", "rebuilt"), 4),
            ("paper/fig6-class0", ("x", "y", "mmd"), 2),
        )
        for seed in (0, 1)
        for client in (0, 1)
        for word in series
        for place in range(places)
    ]  # fmt: skip
    ends = {"q_from@1": Values.of([0.2, 0.9]), "q_to@1": Values.of([0.8, 0.3])}
    measured = {(cell.name, key): values for cell in ranged for key, values in ends.items()}
    figures = figures_of(tables, measured, TableSchema("drawn", DRAWN).table(rows))
    assert list(figures) == ["fig4", "fig7-layercam_ae", "fig6", "fig11-1", "fig11-2"]
    bars = figures["fig4"][1].axes[0].patches
    assert [bar.get_height() for bar in bars] == [0, 1]  # of seed 0 alone
    lines = figures["fig11-2"][1].axes[0].lines
    assert [list(line.get_ydata()) for line in lines] == [[0.2, 0.8], [0.9, 0.3]]
    assert [line.get_marker() for line in lines] == ["None", "x"]
