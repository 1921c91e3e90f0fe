"""The measurements of `raysim bench` at a tiny size: what they compute and print, never how long it takes."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.defense import Verdict
from raysim.errors import ConfigError
from raysim.studies.costs import kernels
from raysim.studies.costs.defense_cost import (
    BETWEEN,
    FIRST_ROUND,
    DefenseCost,
    measure_defense,
    parse_subjects,
)
from raysim.studies.costs.peers import PeerTime
from raysim.studies.costs.targets import RFA_SUBJECT, Judged, judge_defenses, judge_memory
from raysim.studies.limits import gram_product
from raysim.studies.matrix import MatrixSpec, build_matrix
from raysim.studies.memory import MemoryWatch

TINY = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=8, malicious=2)
SMALL = ["--clients", "8", "--malicious", "1", "--model", "digits_cnn", "--image", "1x8x8", "--classes", "10"]


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", *words])


def test_the_gram_limit_is_the_gram_matrix():
    matrix = build_matrix(TINY, InProcessBackend())
    rows = matrix.updates.to_array().astype(np.float64)
    assert len(matrix.updates.blocks) == 2
    assert gram_product(matrix.updates) == pytest.approx(rows @ rows.T)
    assert gram_product(matrix.updates, np.float32) == pytest.approx(rows @ rows.T, rel=1e-4)


def test_a_defense_is_measured_stage_by_stage():
    matrix = build_matrix(TINY, InProcessBackend())
    (subject,) = parse_subjects(["krum"], ["krum.num_byzantine=1"])
    cost = measure_defense(subject, matrix, repeats=2)
    assert cost.label == "krum,num_byzantine=1"
    assert list(cost.stages) == ["gram", "krum", "combine", BETWEEN]
    assert all(len(stage.wall_s) == 2 for stage in cost.stages.values())
    assert sum(stage.wall_s for stage in cost.stages.values()) == pytest.approx(cost.apply_s)
    assert cost.stages["gram"].bytes_in == 4 * 8 * matrix.updates.dim
    assert (cost.stages["gram"].tasks, cost.stages["gram"].nodes) == (1, 1)
    assert cost.stages["combine"].bytes_out == 4 * matrix.updates.dim


def test_state_goes_on_from_repeat_to_repeat(monkeypatch: pytest.MonkeyPatch):
    from defenses.krum import Krum

    seen = []

    def apply(self, state, updates, ctx):
        seen.append((state.get("rounds", 0), ctx.round))
        return Verdict(np.zeros(updates.dim, np.float32)), {"rounds": state.get("rounds", 0) + 1}

    monkeypatch.setattr(Krum, "apply", apply)
    (subject,) = parse_subjects(["krum"], [])
    measure_defense(subject, build_matrix(TINY, InProcessBackend()), repeats=2)
    assert seen == [(number, FIRST_ROUND + number) for number in range(4)]


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["krumm"], [], "did you mean 'krum'"),
        (["krum,num_byzantine"], [], "name,key=value"),
        (["krum,num_byzantin=1"], [], "num_byzantine"),
        (["krum"], ["median.q=1"], "a defense that is measured"),
        (["krum"], ["num_byzantine=1"], "defense.key=value"),
    ],
)
def test_a_mistaken_defense_is_refused(names, options, said):
    with pytest.raises(ConfigError, match=said):
        parse_subjects(names, options)


def test_memory_that_is_held_is_seen():
    with MemoryWatch() as watch:
        held = np.ones(2**23)  # 64 MiB
        assert held.sum() == 2**23
    assert 2**26 <= watch.growth < 2**27
    assert watch.peak > watch.growth


def cost_of(label: str, apply_s: float, gram_s: float, **stages: float) -> DefenseCost:
    from raysim.studies.costs.defense_cost import StageCost

    made = {name: StageCost(np.array([s]), 0, 0, 1, 1, 0) for name, s in stages.items()}
    return DefenseCost(
        label, np.array([apply_s]), np.array([0.1]), np.array([gram_s]), made, 300 * 2**20, 90 * 2**20
    )


def test_targets_by_hand():
    costs = [
        cost_of("krum", 2.0, 1.0, gram=1.5),
        cost_of("median", 0.5, 1.0, order_statistics=0.5),
        cost_of("pdrr,rule=median", 3.0, 1.0, counts=1.0),
        cost_of(RFA_SUBJECT, 2.0, 1.0, gram=1.5),
    ]
    peers = {
        "krum": PeerTime("krum", np.array([20.0]), np.array([9.0])),
        "median": PeerTime("median", np.array([2.0]), np.array([4.0])),
    }
    rows = {row.what: (row.measured, row.met) for row in judge_defenses(costs, peers)}
    assert rows == {
        "krum: similarities / Gram": (1.5, True),
        "krum: ByzFL's Krum on torch / similarities": (6.0, True),
        "krum: ByzFL's Krum on numpy / similarities": (pytest.approx(20 / 1.5), True),
        "krum: whole / Gram": (2.0, False),
        "krum: ByzFL's Krum on torch / whole": (4.5, False),
        "krum: ByzFL's Krum on numpy / whole": (10.0, True),
        "median: ByzFL's on torch / whole": (8.0, True),
        "median: ByzFL's on numpy / whole": (4.0, False),
        "pdrr,rule=median: ByzFL's median on torch / counts": (4.0, False),
        "pdrr,rule=median: ByzFL's median on numpy / counts": (2.0, False),
        "rfa: one of 4 iterations / Gram": (0.5, True),
        "rfa: all iterations / Gram": (2.0, False),
    }
    assert {row.what for row in judge_defenses(costs, {})} == {what for what in rows if "ByzFL" not in what}


def test_the_memory_target_by_hand():
    rows = judge_memory([cost_of("krum", 1, 1)], tile_bytes=64 * 2**20, model_bytes=8 * 2**20)
    assert [(row.measured, row.target, row.met) for row in rows] == [
        (90.0, pytest.approx(1.3 * 64 + 8), True),
        (300.0, pytest.approx(1.3 * 64 + 8), False),
    ]


def test_defenses_prints_limits_stages_and_targets():
    result = call("defenses", "krum", "trimmed_mean", *SMALL, "--backend", "inprocess", "--repeats", "2")
    words = [line.split() for line in result.stdout.splitlines()]
    assert result.exit_code == 0, result.stderr
    assert "K = 8 clients, d = 13,706 parameters" in result.stdout
    assert "seed 0, repeats 2, workers 2" in result.stdout
    assert [line[0] for line in words if line and line[0] in ("krum", "gram", "order_statistics")] == [
        "krum", "gram", "krum", "order_statistics",
    ]  # fmt: skip
    assert "one Gram product, float64" in result.stdout
    assert any(line[:4] == ["krum:", "similarities", "/", "Gram"] for line in words)
    assert any(line[-3:] == ["targets", "met"] or line[-2:] == ["targets", "met"] for line in words)


def test_defenses_names_what_is_shown_the_truth():
    result = call("defenses", "oracle", *SMALL, "--backend", "inprocess", "--repeats", "1")
    assert result.exit_code == 0, result.stderr
    assert "oracle (calibration only)" in result.stdout
    assert "oracle" not in result.stdout.replace("oracle (calibration only)", "")
    row, _ = judge_memory([cost_of("oracle", 1, 1)], tile_bytes=2**20, model_bytes=2**20)
    assert row.what == "oracle (calibration only): memory of one task"


def test_defenses_beside_byzfl(monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec("byzfl")
    if found is None:
        pytest.skip("byzfl is not installed")
    package = ModuleType("byzfl")  # its rules without the rest of the package, which takes seconds to import
    package.__path__ = list(found.submodule_search_locations or ())
    monkeypatch.setitem(sys.modules, "byzfl", package)
    result = call("defenses", "median", *SMALL, "--backend", "inprocess", "--repeats", "1", "--peers")
    assert result.exit_code == 0, result.stderr
    assert "median: ByzFL's on torch / whole" in result.stdout
    assert "median: ByzFL's on numpy / whole" in result.stdout


@pytest.mark.ray
def test_defenses_on_ray_judges_memory(ray_cluster):
    result = call("defenses", "krum", *SMALL, "--repeats", "1")
    assert result.exit_code == 0, result.stderr
    assert "krum: memory of one task" in result.stdout


@pytest.mark.parametrize("words", [["defenses", "krumm"], ["defenses", "--image", "8x8"]])
def test_mistakes_are_refused(words):
    result = call(*words)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_kernels_at_a_tiny_size():
    backend = InProcessBackend()
    mmd = kernels.mmd_case(backend, 1, clients=6, samples=3, features=4)
    similarities = kernels.similarities_case(backend, 1, clients=12)
    autoencoder = kernels.autoencoder_case(backend, 1, clients=5, side=3)
    assert [row.what for row in mmd.targets] == ["all pairs", "resident memory of the largest process"]
    assert similarities.cost is not None
    assert similarities.times_s["similarities"] == similarities.cost.stage_s("similarity")
    assert 0 < autoencoder.times_s["autoencoder stage"][0] == autoencoder.targets[0].measured


def test_sums_beside_one_read():
    spec = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=5, malicious=0)
    times = kernels.sums_case(InProcessBackend(), spec, 2)
    assert list(times.times_s)[:3] == ["first combine", "combine", "one read"]
    assert [len(found) for found in times.times_s.values()] == [1, 2, 2, 2, 2]
    (judged,) = times.targets
    expected = np.median(times.times_s["combine"] / times.times_s["one read"])
    assert judged.measured == pytest.approx(expected)


def test_maps_beside_pytorch_grad_cam():
    try:
        from raysim.studies.costs.peers import peer_package

        peer_package("pytorch_grad_cam")
    except ConfigError as error:
        pytest.skip(str(error))
    times = kernels.cam_case(InProcessBackend(), TINY, 1, 1, peers=True)
    own, peer = times.times_s["maps alone, one process"], times.times_s["pytorch-grad-cam, one process"]
    assert times.targets[0].measured == pytest.approx(float(peer[0] / own[0]))


def test_ratios_know_their_direction():
    assert Judged("", 3.0, 3.0, at_least=True).met
    assert not Judged("", 2.9, 3.0, at_least=True).met
    assert Judged("", 1.6, 1.6).met
    assert not Judged("", 1.7, 1.6).met
