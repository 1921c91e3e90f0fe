"""The population benchmark at tiny size: clients have samples of their own, and what is shown is what was measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from raysim import rng
from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.data import load
from raysim.data.shards import check
from raysim.errors import ConfigError
from raysim.runs.table_schema import Rows
from raysim.studies.population import Population, PopulationCell, PopulationPlan
from raysim.studies.population_data import BLOCK, KINDS, SHARED_SAMPLES, let_go_of, shared, written
from raysim.studies.study import Bench


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"), [("images", "uint8", (1, 28, 28)), ("tokens", "uint16", (392,))]
)
def test_samples_are_of_their_kind_and_tell_classes_apart(
    kind: str, dtype: str, shape: tuple[int, ...]
) -> None:
    inputs, labels = KINDS[kind].make(rng.generator(1), 50, 6)
    assert (inputs.dtype, inputs.shape) == (np.dtype(dtype), (300, *shape))
    assert inputs[0].nbytes == 784
    assert np.ptp(labels) == KINDS[kind].classes - 1
    if kind == "tokens":
        assert inputs.max() < 4096
        own = [np.mean(inputs[labels == topic] // 256 == topic) for topic in range(4)]
        assert min(own) > 0.5  # half of a text's words, and some of the others
    else:
        means = np.stack([inputs[labels == label].astype(float).mean(0) for label in range(62)])
        nearest = ((inputs[:, None] - means) ** 2).sum((2, 3, 4)).argmin(1)
        assert np.mean(nearest == labels) > 0.9


def test_every_client_has_samples_of_its_own(tmp_path: Path) -> None:
    written("images", BLOCK + 3, 2, tmp_path / "one")
    data = load("shards", tmp_path / "one", store="memory")
    assert len({image.tobytes() for image in data.train.images}) == len(data.train) == 2 * (BLOCK + 3)
    np.testing.assert_array_equal(data.owners, np.arange(BLOCK + 3).repeat(2))
    written("images", BLOCK + 3, 2, tmp_path / "two")
    assert check(tmp_path / "two").digest == check(tmp_path / "one").digest
    written("images", 1, 1, tmp_path / "one")  # what is there is kept
    assert let_go_of(tmp_path / "one") > data.train.images.nbytes


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[PopulationCell, Rows]:
    """Of a run of every kind."""
    plan = PopulationPlan(
        clients=(600,), data="tokens,digits", samples=2, cohort=20, rounds=2, backend="inprocess",
        folder=str(tmp_path_factory.mktemp("population")),
    )  # fmt: skip
    study, bench = Population(), Bench(InProcessBackend())
    return {cell: study.measure(plan, cell, bench)["population"] for cell in study.cells(plan)}


def test_runs_are_measured(rows: dict[PopulationCell, Rows]) -> None:
    kinds = [(cell.data, cell.store) for cell in rows]
    assert kinds == [("tokens", "shared"), ("tokens", "shards"), ("digits", "shared")]
    for cell, found in rows.items():
        assert [row["round"] for row in found] == [0, 1]
        assert all(row["peak_bytes"] > 2**20 and row["wall_s"] > 0 for row in found)
        assert 0 < found[0]["start_s"] < found[0]["wall_s"]
        assert (found[0]["disk_bytes"] > 600 * 2 * 784) == (cell.store == "shards")


def test_rounds_on_shards_stand_beside_those_of_shared_samples() -> None:
    study = Population()
    table = study.tables["population"].table(
        [
            {
                "clients": 10**6, "data": "images", "store": store, "round": number, "wall_s": seconds,
                "start_s": 3.0, "peak_bytes": 2**30, "disk_bytes": 20 * 2**30 if store == "shards" else 0,
            }
            for store, spent in (("shared", (9.0, 2.0, 4.0, 4.0)), ("shards", (9.0, 4.0, 5.0, 6.0)))
            for number, seconds in enumerate(spent)
        ]
    )  # fmt: skip
    (shown, _), figures = (page := study.page(PopulationPlan(), {"population": table})).sections, page.figures
    assert "| 1,000,000 | images | shared | 1.00 | 3.0 | 4.00 (3.00 to 4.00) |  |" in shown
    assert "| 1,000,000 | images | 20.0 GiB on disk | 1.00 | 3.0 | 5.00 (4.50 to 5.50) | 1.25 |" in shown
    assert list(figures) == ["population"]


def test_the_command_shows_what_it_measured(tmp_path: Path) -> None:
    words = [
        "population",
        "--clients",
        "300",
        "--cohort",
        "10",
        "--rounds",
        "2",
        "--samples",
        "1",
        "--data",
        "images",
        "--backend",
        "inprocess",
    ]
    result = CliRunner().invoke(app, ["bench", *words, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^\| 300 \| images \| shared \|.*\n\| 300 \| images \| \d+ KiB on disk \|",
        result.stdout,
        re.MULTILINE,
    )
    assert (tmp_path / "population.parquet").exists()


def test_shared_samples_are_few() -> None:
    (train, labels), (test, _) = shared("tokens")
    assert (len(train), len(labels), len(test)) == (SHARED_SAMPLES, SHARED_SAMPLES, 400)


def test_unknown_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data: must be one of digits, images, tokens; received 'image'"):
        PopulationPlan(data="image")
