"""Rounds until all pairs have a similarity, against what can be worked out."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from defenses.cosine import coverage_rounds, theorem_1_rounds
from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies.coverage import Coverage, CoveragePlan, cohort_size, one_trial, simulate
from raysim.studies.study import Bench
from raysim.studies.table import Values


class Scripted:
    """A generator whose cohorts are given: the members of each round get the smallest keys."""

    def __init__(self, population: int, cohorts: list[list[int]]) -> None:
        self.population, self.cohorts = population, cohorts

    def random(self, shape: tuple[int, int]) -> np.ndarray:
        keys = np.ones(shape)
        for row, members in zip(keys, self.cohorts, strict=False):
            row[members] = 0.0
        for number in range(len(self.cohorts), shape[0]):
            keys[number, :2] = 0.0
        return keys


@pytest.mark.parametrize(
    ("cohorts", "events"),
    [
        ([[0, 1], [2, 3], [1, 2], [0, 3], [0, 2], [1, 3]], (2, 4, 6)),  # a ring estimates its diagonals
        ([[0, 1], [0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]], (4, 4, 7)),  # a star: all through 0
        ([[0, 1], [1, 2], [2, 3], [0, 2], [0, 3], [1, 3]], (3, 4, 6)),  # a chain leaves its ends apart
    ],
)
def test_events_by_hand(cohorts, events):
    assert one_trial(4, 2, cast(np.random.Generator, Scripted(4, cohorts))) == events


def test_a_cohort_of_all_needs_one_round():
    assert (simulate(7, 7, 5, seed=0) == 1).all()
    plan = CoveragePlan(population=(7,), cohort=("7",), trials=3)
    (row,) = Coverage().measure(plan, *Coverage().cells(plan), Bench(InProcessBackend()))["coverage"]
    assert (row["exact_rounds"], row["linked_rounds_mean"], row["met_rounds_half_ci"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize(("population", "cohort"), [(10, 2), (12, 4), (20, 10)])
def test_all_linked_is_what_the_recursion_expects(population, cohort):
    found = Values.of(simulate(population, cohort, 300, seed=1)[:, 0])
    mean, half = found.mean, found.half_interval
    assert abs(mean - coverage_rounds(population, cohort)) <= half
    assert theorem_1_rounds(population, cohort) < mean - half


def test_pairs_of_two_are_coupons():
    """With K = 2 a round draws one of the 6 pairs: all have met after 6 (1 + 1/2 + ... + 1/6) = 14.7 rounds."""
    found = Values.of(simulate(4, 2, 400, seed=0)[:, 2])
    assert abs(found.mean - 14.7) <= found.half_interval


def test_events_come_in_order_and_trials_do_not_depend_on_their_number():
    found = simulate(15, 3, 20, seed=2)
    assert (np.diff(found, axis=1) >= 0).all()
    assert (found[:, 2] > found[:, 1]).any()
    assert (simulate(15, 3, 5, seed=2) == found[:5]).all()
    assert (simulate(15, 3, 20, seed=3) != found).any()


@pytest.mark.parametrize("word", ["1", "11", "5%", "200%", "x", "", "-3"])
def test_cohorts_that_are_none_are_refused(word):
    with pytest.raises(ConfigError, match="cohort"):
        cohort_size(word, 10)


@pytest.mark.parametrize(
    ("plan", "key"), [({"trials": 1}, "trials"), ({"cohort": ("5", "50%"), "population": (10,)}, "cohort")]
)
def test_plans_that_say_nothing_are_refused(plan, key):
    with pytest.raises(ConfigError, match=key):
        CoveragePlan(**plan)


@pytest.mark.usefixtures("drawn")
def test_the_command_leaves_three_files_and_tells_where_the_bound_fails(tmp_path: Path):
    words = ["bench", "coverage", "--population", "6,8", "--cohort", "50%,100%", "--trials", "10"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "new")])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == (tmp_path / "new" / "coverage.md").read_text().strip()
    assert "lies below the exact expectation in 2 of 4 rows" in result.stdout
    table = pq.read_table(tmp_path / "new" / "coverage.parquet").to_pylist()
    assert [(row["population"], row["cohort"]) for row in table] == [(6, 3), (6, 6), (8, 4), (8, 8)]
    assert table[0]["exact_rounds"] == coverage_rounds(6, 3)
    assert f"| 6, 3 | {coverage_rounds(6, 3):.2f} |" in result.stdout
    assert (tmp_path / "new" / "coverage-rounds.png").stat().st_size > 0


def test_a_mistake_is_refused_before_the_folder_is_made(tmp_path: Path):
    out = tmp_path / "new"
    result = CliRunner().invoke(app, ["bench", "coverage", "--cohort", "500", "--out", str(out)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cohort")
    assert not out.exists()
