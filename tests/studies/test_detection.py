"""The table of what defenses catch: its runs, what it shows, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import raysim
from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies.detection import (
    MALICIOUS,
    NO_ATTACK,
    DetectionCell,
    DetectionPlan,
    DetectionStudy,
    defense_options,
    measures,
)
from raysim.studies.study import Bench
from raysim.studies.table import Values

TINY = DetectionPlan(
    data="digits", attack="noise", defense=("krum", "pdrr,rule=median"), rounds=1, seeds="0,1", workers=1
)


def test_cells_and_their_configurations():
    cells = DetectionStudy().cells(TINY)
    assert len(cells) == 2 + 2 * 2
    assert cells[0] == DetectionCell("digits", NO_ATTACK, "fedavg", 0)
    config = TINY.config(DetectionCell("digits", "noise", "pdrr,rule=median", 1))
    assert (config.seed, config.rounds, config.population.num_malicious) == (1, 1, MALICIOUS)
    assert config.defense[0].options["rule"] == "median"
    assert config.defense[0].options["num_byzantine"] == MALICIOUS
    assert TINY.config(cells[0]).attack == ()


def test_options_that_state_the_truth_and_those_given_on_top():
    assert defense_options("krum") == {"num_byzantine": MALICIOUS}
    assert defense_options("median") == {}
    assert defense_options("layercam_ae") == {"hidden": 4}
    plan = DetectionPlan(defense="krum,num_byzantine=1")
    assert (
        plan.config(DetectionCell("digits", "noise", *plan.defense, 0)).defense[0].options["num_byzantine"]
        == 1
    )


def test_all_defenses_where_none_is_named():
    from defenses.table import DEFENSES

    assert DetectionPlan().defenses == tuple(DEFENSES)


def test_a_cell_has_the_numbers_of_its_run(tmp_path: Path):
    cell = DetectionCell("digits", "noise", "krum", 0)
    rows = DetectionStudy().measure(TINY, cell, Bench(InProcessBackend()))
    (row,) = rows["detection"]
    run = raysim.run(TINY.config(cell), name="same", out=tmp_path, backend="inprocess")
    assert (row["recall"], row["accuracy"]) == (run.rounds[0]["recall"], run.rounds[0]["main_accuracy"])
    assert row["first_s"] > 0
    assert {span["stage"] for span in rows["spans"]} >= {"gram"}
    assert {span["cell"] for span in rows["spans"]} == {cell.name}


def test_what_a_defense_refuses_is_kept_as_its_problem():
    cell = DetectionCell("digits", "noise", "krum,num_byzantine=99", 0)
    rows = DetectionStudy().measure(TINY, cell, Bench(InProcessBackend()))
    assert rows["detection"][0]["problem"].startswith("ConfigError: defense.num_byzantine")
    assert rows["spans"] == []


@pytest.mark.usefixtures("drawn")
@pytest.mark.slow
def test_the_command_makes_the_page(tmp_path: Path):
    words = ["bench", "detection", "--data", "digits", "--attack", "noise", "--rounds", "1", "--workers", "1"]
    words += ["--defense", "krum,median,krum,num_byzantine=99", "--seeds", "0,1"]
    result = CliRunner().invoke(
        app, [*words, "--out", str(tmp_path / "out"), "--page", str(tmp_path / "t.md")]
    )
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "t.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| krum |"))
    assert row.startswith("| krum | 1.000 ± 0.000 | 0.000 ± 0.000 | ")
    assert "| krum,num_byzantine=99 | failed | failed | failed | failed | failed |" in text
    assert "| median | - | - | " in text
    assert "- digits, noise, krum,num_byzantine=99, seed 1: ConfigError" in text
    assert (tmp_path / "t-rates.svg").stat().st_size > 0
    assert pq.read_table(tmp_path / "out" / "detection.parquet").num_rows == 8


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"data": "digit"}, "data"),
        ({"attack": "nois"}, "attack"),
        ({"defense": "krumm"}, "defense"),
        ({"rounds": 0}, "rounds"),
        ({"seeds": "-1"}, "seeds"),
        ({"workers": 0}, "workers"),
    ],
)
def test_plans_that_cannot_be_are_refused(changed, key):
    with pytest.raises(ConfigError, match=f"^{key}"):
        DetectionPlan(**changed)


def test_every_cell_is_a_configuration_that_its_defense_accepts():
    from raysim.composition.methods import make_defense
    from raysim.context import Setting
    from raysim.defense import check_setting

    plan = DetectionPlan()
    for cell in DetectionStudy().cells(plan):
        config = plan.config(cell)
        check_setting(make_defense(config), Setting(24, 24, 3, config.rounds, 10, config.server_data.samples))
        assert config.population.num_malicious == 3


def test_a_row_is_the_mean_over_rounds_and_the_last_accuracy():
    rates = {"precision": 1.0, "acc": 1.0, "f1": 1.0, "auc_hard": 1.0, "auc_score": 1.0}
    rounds = [
        {**rates, "recall": 1.0, "fpr": 0.5, "main_accuracy": float("nan")},
        {**rates, "recall": 0.0, "fpr": float("nan"), "main_accuracy": 0.75},
    ]
    spans = [
        (0, "gram", "defense", -1, 0.5),
        (0, "gram", "defense", 0, 9.0),
        (0, "train", "client", -1, 9.0),
        (0, "combine", "defense", -1, 0.25),
        (1, "gram", "defense", -1, 0.125),
    ]
    names = ("round", "stage", "owner", "task", "wall_s")
    columns = {name: np.array([span[at] for span in spans]) for at, name in enumerate(names)}
    assert measures(rounds, columns) == {
        "recall": 0.5,
        "fpr": 0.5,
        "accuracy": 0.75,
        "detection_s": 0.125,
        "first_s": 0.75,
    }


def test_means_over_seeds():
    assert Values.of([0.5]).mean_text() == "0.500"
    assert Values.of([1, 2, 3]).mean_text() == "2.000 ± 2.484"
    assert Values.of([float("nan")]).mean_text() == "-"
