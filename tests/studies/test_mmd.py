"""FLARE's MMD against n and m: what is measured and what is written down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from defenses.mmd import pairwise_mmd
from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.errors import ConfigError
from raysim.studies import mmd as mmd_study
from raysim.studies.mmd import MMD, MMDPlan, kernel_context, plain_loop_s, plain_mmd, samples_of
from raysim.studies.runner import carry_out

TINY = MMDPlan(clients=(2, 5, 9), samples=(2, 3), features=4, repeats=2)


def test_every_size_is_measured_once(tmp_path: Path):
    text = carry_out(MMD(), TINY, tmp_path, tell=lambda line: None)
    rows = pq.read_table(tmp_path / "mmd.parquet").to_pylist()
    found = [(row["clients"], row["samples"], row["repeat"]) for row in rows]
    assert sorted(found) == [(n, m, repeat) for n in (2, 5, 9) for m in (2, 3) for repeat in (0, 1)]
    assert [n * m for n, m, _ in found] == sorted(n * m for n, m, _ in found)
    for row in rows:
        assert min(row["wall_s"], row["loop_s"]) > 0
        assert row["loop_pairs_timed"] == row["clients"] * (row["clients"] - 1) / 2
    grown = [row["private_growth_bytes"] for row in rows]
    assert grown == sorted(grown)
    assert "| seconds | grows with n to the power" in text
    assert "| n = 9 | needs 3 sizes |" in text
    assert "| n; private memory (MB) | m = 2 | m = 3 |" in text


GROWTH = """
from raysim.backends.base import InProcessBackend
from raysim.studies.mmd import MMD, MMDPlan
from raysim.studies.study import Bench
study, plan = MMD(), MMDPlan(clients=(2, 300), samples=(20,), features=64, repeats=1)
with study.opened(plan, Bench(InProcessBackend())) as warm:
    rows = [study.measure(plan, cell, warm)["mmd"][0] for cell in study.cells(plan)]
print(*(row["private_growth_bytes"] for row in rows))
"""


def test_memory_that_a_size_needs_is_seen():
    """In a process of its own: one that has freed memory before needs no more of it."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large > 2**24 > small


def test_the_plain_loop_is_the_same_discrepancy():
    """Means over m^2 with the samples' kernels with themselves: the biased form of the tiled one's sums."""
    sets = samples_of(TINY, 3, 4)
    ctx = kernel_context(InProcessBackend(), 0)
    unbiased = pairwise_mmd(sets, ctx, squared_bandwidth=8.0, estimator="unbiased")
    points = sets.astype(np.float64)
    within = [np.exp(-((s[:, None] - s) ** 2).sum(2) / 16).mean() for s in points]
    fair = [(16 * mean - 4) / 12 for mean in within]  # without the four ones on the diagonal
    for i, j in ((0, 1), (0, 2), (1, 2)):
        correction = within[i] + within[j] - fair[i] - fair[j]
        assert plain_mmd(sets[i], sets[j], 8.0) - correction == pytest.approx(unbiased[i, j], abs=1e-5)


def test_the_plain_loop_is_scaled_up_to_all_pairs(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(work):
        work()
        return 2.0

    monkeypatch.setattr(mmd_study, "seconds", counted)
    monkeypatch.setattr(mmd_study, "plain_mmd", lambda *given: calls.append(given))
    assert plain_loop_s(np.zeros((40, 2, 1), np.float32), 1.0) == (2.0 / 100 * 780, 100)
    assert len(calls) == 100
    assert plain_loop_s(np.zeros((4, 2, 1), np.float32), 1.0) == (2.0, 6)


@pytest.mark.parametrize(
    ("changed", "key"),
    [({"clients": (1,)}, "clients"), ({"samples": (1, 2)}, "samples"), ({"features": 0}, "features")],
)
def test_plans_out_of_range_are_refused(changed, key):
    with pytest.raises(ConfigError, match=key):
        MMDPlan(**changed)


@pytest.mark.usefixtures("drawn")
def test_the_command_leaves_three_files(tmp_path: Path):
    words = [
        "bench",
        "mmd",
        "--clients",
        "2,3",
        "--samples",
        "2",
        "--features",
        "2",
        "--repeats",
        "1",
        "--out",
    ]
    result = CliRunner().invoke(app, [*words, str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == (tmp_path / "mmd.md").read_text().strip()
    assert pq.read_table(tmp_path / "mmd.parquet")["clients"].to_pylist() == [2, 3]
    assert (tmp_path / "mmd-cost.png").stat().st_size > 0
