"""FedGrad's similarities in four ways: what their errors are and what is written down."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies.curves import curves_of
from raysim.studies.similarity import (
    SCALED,
    WAYS,
    Similarity,
    SimilarityPlan,
    direct_errors,
    estimate_errors,
    met_before,
    scaled_up,
    vectors_of,
)
from raysim.studies.study import Bench, Page

TINY = SimilarityPlan(clients=(4, 8, 12), columns=5, repeats=2, pair_limit=8, history_rounds=4, share=0.5)


def measured(plan: SimilarityPlan) -> pa.Table:
    study = Similarity()
    rows = [
        {"clients": cell.clients, **row}
        for cell in study.cells(plan)
        for row in study.measure(plan, cell, Bench(InProcessBackend()))["similarity"]
    ]
    return study.tables["similarity"].table(rows)


@cache
def tiny() -> pa.Table:
    return measured(TINY)


def page(plan: SimilarityPlan, table: pa.Table) -> Page:
    return Similarity().page(plan, {"similarity": table})


def test_direct_ways_are_right_and_the_estimate_is_not():
    rows = tiny().to_pylist()
    assert list(dict.fromkeys((row["clients"], row["way"]) for row in rows)) == [
        (k, way) for k in TINY.clients for way in WAYS
    ]
    for row in rows:
        if row["wall_s"] is None:
            assert (row["way"], row["clients"]) == ("pair", 12)
        elif row["way"] == "transitive":
            assert 1e-3 < row["error_mean"] <= row["error_max"] <= 2
            assert 0 < row["known_share"] < 1
            assert 0 < row["covered_share"] <= 1
        else:
            assert row["wall_s"] > 0
            assert 0 <= row["error_mean"] <= row["error_max"] < 1e-12


def test_pairs_above_the_limit_are_scaled_up_and_marked():
    spent = curves_of(tiny(), "wall_s", "clients", "way")
    assert list(spent["pair"]) == [4, 8]
    scaled = scaled_up(spent["pair"], [4, 8, 12])
    assert {k: values.median for k, values in scaled.items()} == {
        8: spent["pair"][8].median,
        12: pytest.approx(spent["pair"][8].median * (12 / 8) ** 2),
    }
    assert scaled_up(spent["batch"], [4, 8, 12]) == {}
    head, _, *lines = page(TINY, tiny()).sections[0].splitlines()
    (line,) = [line for line in lines if line.startswith("| 12 |")]
    row = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (row["pair"], row[SCALED] > "") == ("", True)


def test_errors_by_hand():
    truth = np.array([[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    near = truth + 0.25 * np.eye(3)  # the diagonal does not count
    near[0, 1] = near[1, 0] = 0.8
    assert direct_errors(near, truth) == pytest.approx({"error_max": 0.3, "error_mean": 0.1})
    met = np.array([[False, True, False], [True, False, False], [False, False, False]])
    shared = np.array([[True, False, True], [False, True, False], [True, False, False]])
    estimate = np.full((3, 3), 0.6)
    assert estimate_errors(estimate, shared, met, truth) == pytest.approx(
        {"error_max": 0.4, "error_mean": 0.4, "known_share": 1 / 3, "covered_share": 0.5}
    )
    nobody = estimate_errors(estimate, np.zeros((3, 3), bool), met, truth)
    assert np.isnan(nobody["error_max"])
    assert nobody["covered_share"] == 0.0


def test_an_estimate_of_equal_cosines_is_their_square():
    """Three orthogonal unit vectors plus a shared one of the same length have cosines of 1/2; clients 0 and 1 know
    only client 2, and get 1/4.
    """
    from defenses.cosine import cosine_similarities, transitive_similarities

    truth = cosine_similarities(np.hstack([np.eye(3), np.ones((3, 1))]).astype(np.float32))
    met = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool)
    found = estimate_errors(*transitive_similarities(np.where(met, truth, 0.0), met), met, truth)
    assert found["error_max"] == pytest.approx(0.25)
    assert (found["known_share"], found["covered_share"]) == pytest.approx((2 / 3, 1.0))


def test_vectors_and_histories_follow_from_the_seed():
    assert (vectors_of(TINY, 12)[:4] == vectors_of(TINY, 4)).all()
    met = met_before(TINY, 12)
    assert (met == met.T).all()
    assert not met.diagonal().any()
    assert met_before(SimilarityPlan(clients=(4,), share=1.0), 4).sum() == 12
    one = met_before(SimilarityPlan(clients=(12,), history_rounds=1, share=0.25), 12)
    assert sorted(one.sum(axis=0)) == [0] * 9 + [2] * 3


def test_nothing_to_estimate_is_told_as_such():
    """Everybody has met, and cosines of one column are exact: no error is left for the figure either."""
    plan = SimilarityPlan(clients=(4,), columns=1, repeats=1, share=1.0)
    table = measured(plan)
    estimate = table.to_pylist()[-1]
    assert (estimate["known_share"], np.isnan(estimate["error_max"])) == (1.0, True)
    shown = page(plan, table)
    line = next(line for line in shown.sections[0].splitlines() if line.startswith("| 4 |"))
    assert line.endswith("| 0 | 0 |  | 100.0% |")
    assert shown.figures["cost"][1].axes[1].get_yscale() == "linear"


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        *[({name: 0}, name) for name in ("columns", "repeats", "history_rounds", "threads", "share")],
        ({"share": 1.5}, "share"),
        ({"clients": (1, 2)}, "clients"),
        ({"clients": (50,), "pair_limit": 10}, "pair_limit"),
    ],
)
def test_plans_out_of_range_are_refused(changed, key):
    with pytest.raises(ConfigError, match=key):
        SimilarityPlan(**changed)


@pytest.mark.usefixtures("drawn")
def test_the_command_leaves_three_files(tmp_path: Path):
    words = ["bench", "similarity", "--clients", "4,8", "--repeats", "1", "--columns", "3", "--out"]
    result = CliRunner().invoke(app, [*words, str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert "clients 8" in result.stderr
    assert result.stdout.strip() == (tmp_path / "similarity.md").read_text().strip()
    assert pq.read_table(tmp_path / "similarity.parquet")["way"].to_pylist() == [*WAYS, *WAYS]
    assert (tmp_path / "similarity-cost.png").stat().st_size > 0
