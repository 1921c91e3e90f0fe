"""`raysim bench scaling` at a tiny size: what is measured and kept, never how long it takes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import raysim
from cluster import namespaces
from defenses.fldetector import FLDetector
from defenses.krum import Krum
from defenses.layercam_ae import LayerCAMAE
from raysim.backends.base import InProcessBackend
from raysim.backends.telemetry import Span
from raysim.cli.main import app
from raysim.engine import recording
from raysim.errors import ConfigError, RecordError, RunError
from raysim.matrix.updates import Updates
from raysim.models import build_model
from raysim.runs.directory import digest
from raysim.studies.costs.subjects import Judging, arrays_of
from raysim.studies.memory import ProcessPeaks, SpillFolder
from raysim.studies.runner import carry_out
from raysim.studies.scaling.cell import Work, rounds_of, stages_of
from raysim.studies.scaling.plan import ParameterCount, ScalingPlan, cells_of, sizes_of
from raysim.studies.scaling.presets import NodesStudy, PairsStudy
from raysim.studies.scaling.study import Scaling, estimates, shared_cpus
from raysim.studies.scaling.tables import COLUMNS, LIMITS, TABLES
from raysim.studies.scaling.updates import Recorded, in_blocks, source_of
from raysim.studies.stages import BETWEEN, WHOLE, summary

DIGITS: dict[str, Any] = {"model": "digits_cnn", "image": (1, 8, 8), "classes": 10}
TINY = ScalingPlan(
    defense=("krum", "trimmed_mean,trim=1"), clients=(4, 6), backend="inprocess", repeats=2, **DIGITS
)


def but(plan: ScalingPlan, **changes: Any) -> ScalingPlan:
    """The plan with other values."""
    return ScalingPlan(**{**plan.model_dump(), **changes})


def measure(plan: ScalingPlan, out: Path, *, resume: bool = False) -> None:
    carry_out(Scaling(), plan, out, resume=resume, tell=lambda line: None)


def rows(out: Path, table: str = "stages") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(out / f"{table}.parquet").to_pylist()
    return found


def parts(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "parts" / "stages").iterdir()}


@pytest.fixture(scope="module", autouse=True)
def small_products() -> Iterator[None]:
    """Of the limit that is half a second of products, where work is done in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raysim.studies.limits.PIECE_ROWS", 4)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished measurement of TINY; not to be changed."""
    out = tmp_path_factory.mktemp("scaling")
    measure(TINY, out)
    return out


def test_every_cell_is_in_the_table(tiny):
    found = rows(tiny)
    cells = {(row["defense"], row["clients"], row["repeat"]) for row in found}
    labels = ("krum", "trimmed_mean,trim=1", LIMITS)
    assert cells == {(label, clients, repeat) for label in labels for clients in (4, 6) for repeat in (0, 1)}
    assert pq.read_schema(tiny / "stages.parquet").names == list(COLUMNS["stages"])
    krum = sorted(
        (row for row in found if (row["defense"], row["clients"], row["repeat"]) == ("krum", 6, 0)),
        key=lambda row: row["order"],
    )
    assert [row["stage"] for row in krum] == [WHOLE, "gram", "krum", "combine", BETWEEN]
    assert sum(row["wall_s"] for row in krum[1:]) == pytest.approx(krum[0]["wall_s"])
    assert krum[1]["bytes_in"] == 4 * 6 * 13_706
    assert krum[0]["bytes_in"] == sum(row["bytes_in"] for row in krum[1:])
    assert {(row["malicious"], row["parameters"], row["nodes"], row["kind"]) for row in krum} == {
        (1, 13_706, 1, "inprocess")
    }
    assert {row["stage"] for row in found if row["defense"] == LIMITS} == {"draw", "copy", "gram", "products"}


def test_repeats_end_in_the_same_bytes(tiny):
    found: dict[tuple[str, int], set[str]] = {}
    for row in rows(tiny):
        if row["stage"] == WHOLE:
            found.setdefault((row["defense"], row["clients"]), set()).add(row["digest"])
        else:
            assert row["digest"] == ""
    assert [len(digests) for digests in found.values()] == [1] * 4
    assert len(set.union(*found.values())) == 4


def test_memory_is_measured_in_the_last_repeat(tiny):
    found = rows(tiny, "memory")
    assert {(row["clients"], row["repeat"], row["node"]) for row in found} == {(4, 1, 0), (6, 1, 0)}
    assert all(row["worker_bytes"] == row["largest_worker_bytes"] > 2**26 for row in found)


def test_the_tables_know_plan_and_machine(tiny):
    about = json.loads(pq.read_schema(tiny / "memory.parquet").metadata[b"about"])
    assert ScalingPlan(**about["plan"]) == TINY
    assert about["environment"]["versions"]["numpy"] == np.__version__


def test_resume_measures_only_what_is_missing(tmp_path):
    plan = but(TINY, defense=("krum",), clients=(4,))
    measure(plan, tmp_path)
    before = parts(tmp_path)
    lost = "nodes1-clients4-parameters13706-repeat1-defensekrum.parquet"
    (tmp_path / "parts" / "stages" / lost).unlink()
    with pytest.raises(RecordError, match="--resume"):
        measure(plan, tmp_path)
    measure(plan, tmp_path, resume=True)
    after = parts(tmp_path)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == [lost]
    measure(but(plan, clients=(4, 5)), tmp_path, resume=True)
    assert {name: parts(tmp_path)[name] for name in after} == after
    assert {row["clients"] for row in rows(tmp_path)} == {4, 5}
    with pytest.raises(RecordError, match="seed 0, not 1"):
        measure(but(plan, seed=1), tmp_path, resume=True)


def test_an_attack_is_measured_beside_defenses(tmp_path: Path):
    plan = but(TINY, defense=("median",), attack=("min_max",), clients=(6,), malicious=0.4, repeats=2)
    measure(plan, tmp_path)
    own = [row for row in rows(tmp_path) if row["defense"] == "min_max"]
    assert {row["stage"] for row in own} >= {WHOLE, "min_max", BETWEEN}
    (digest_of_both,) = {row["digest"] for row in own if row["stage"] == WHOLE}
    assert len(digest_of_both) == 64
    with pytest.raises(ConfigError, match="other clients"):
        but(TINY, attack=("trigger",))
    with pytest.raises(ConfigError, match="at least one defense, or attack"):
        but(TINY, defense=())


def test_nodes_and_pairs_are_scaling_with_defaults_of_their_own(tmp_path: Path):
    assert NodesStudy.plan().nodes == (1, 2, 4)
    assert NodesStudy.plan().cpus_per_node == max(1, len(os.sched_getaffinity(0)) // 4)
    assert (PairsStudy.plan().nodes, PairsStudy.plan().model) == ((1, 2), "digits_cnn")
    words = ["bench", "pairs", "--clients", "6", "--nodes", "1", "--backend", "inprocess", "--repeats", "1"]
    more = ["--defense", "krum", "--malicious", "0.4", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*words, *more])
    assert result.exit_code == 0, result.stderr
    assert {row["defense"] for row in rows(tmp_path)} == {"krum", "min_max", LIMITS}
    assert (tmp_path / "pairs.md").exists()


def test_every_repeat_has_an_order_of_its_own():
    plan = but(TINY, clients=tuple(range(4, 14)), repeats=3)
    cells = cells_of(plan, [ParameterCount(13_706)])
    orders = [list(dict.fromkeys(c.clients for c in cells if c.repeat == repeat)) for repeat in range(3)]
    assert orders[0] != orders[1] != orders[2]
    assert [sorted(order) for order in orders] == [list(range(4, 14))] * 3
    assert len({cell.name for cell in cells}) == 10 * 3 * 3
    matrices = [(cell.repeat, cell.clients) for cell in cells]  # each is drawn once
    assert len([at for at, before in zip(matrices, [None, *matrices], strict=False) if at != before]) == 30


def test_the_width_with_the_nearest_number_of_parameters():
    (size,) = sizes_of((5000,), **DIGITS)
    counts = []
    for hidden in range(1, 129):  # the widths at which the widest layer changes
        network = build_model(
            "digits_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0, width=(hidden + 0.01) / 64
        )
        counts.append(sum(parameter.numel() for parameter in network.parameters()))
    assert abs(size.parameters - 5000) <= min(abs(count - 5000) for count in counts)
    network = build_model("digits_cnn", num_classes=10, input_shape=(1, 8, 8), seed=0, width=size.width)
    assert sum(parameter.numel() for parameter in network.parameters()) == size.parameters
    assert sizes_of((), **DIGITS) == sizes_of((13_706,), **DIGITS) == (ParameterCount(13_706),)


def test_the_timed_round_is_a_full_one():
    assert rounds_of(Judging("", Krum())) == (range(499, 500), 500, 501)
    warm_ups, timed, watched = rounds_of(Judging("", LayerCAMAE(interval=7, votes=2)))
    assert ((timed + 1) % 7, (watched + 1) % 7, len(warm_ups)) == (0, 0, 1)
    assert len(rounds_of(Judging("", FLDetector(window=5, burn_in=8)))[0]) == 9


def test_stages_by_hand():
    def span(stage: str, task: int, wall_s: float, moved: int = 0) -> Span:
        return Span(stage, task, f"node {task % 2}", 10.0, wall_s, wall_s / 2, 100, 10, 2**20, 0, moved)

    spans = [
        span("gram", -1, 2.0, 7),
        span("gram", 0, 1.0, 3),
        span("gram", 1, 1.5, 4),
        span("vote", -1, 0.5),
    ]
    result = (np.ones(3, np.float32), np.array([True]))
    found = stages_of(Work(spans, 3.0, 0.25, 9.0, inside=False), result)
    short = [(row["stage"], row["order"], row["wall_s"], row["cpu_s"], row["tasks"]) for row in found]
    assert short == [
        (WHOLE, -1, 3.0, 1.5, 2),
        ("gram", 0, 2.0, 1.0, 2),
        ("vote", 1, 0.5, 0.25, 0),
        (BETWEEN, 2, 0.5, 0.25, 0),
    ]
    assert [(row["nodes_used"], row["bytes_moved"], row["bytes_in"]) for row in found] == [
        (2, 7, 200), (2, 7, 100), (1, 0, 100), (1, 0, 0),
    ]  # fmt: skip
    assert [row["bytes_to_one_node"] for row in found] == [4, 4, 0, 0], "task 1 is the one on node 1"
    answers = [replace(spans[0], node="node 0", bytes_returned=5), *spans[1:3]]
    assert summary(answers)["bytes_to_one_node"] == 3 + 5
    assert found[0]["digest"] == digest(*result)
    assert found[0]["started_s"] == 9.0


def test_what_was_spilled_is_remembered(tmp_path):
    folder = SpillFolder(tmp_path / "later")
    assert folder.total() == 0
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a").write_bytes(b"x" * 1000)
    assert folder.total() == 1000
    (tmp_path / "later" / "a").unlink()
    (tmp_path / "later" / "b").write_bytes(b"x" * 24)
    assert folder.total() == 1024


def test_peaks_of_a_process(nothing_kept):
    peaks = ProcessPeaks(lambda: [psutil.Process()])
    before = peaks.total
    held = np.ones(2**23)  # 64 MiB
    peaks._look()
    del held
    total, largest = peaks.stop()
    assert total == largest
    assert 2**25 < total - before < 2**27


@dataclass(frozen=True)
class Run:
    path: Path
    updates: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one round with recorded updates of 8 clients, 2 of them malicious."""
    config = {
        "rounds": 1,
        "population": {"clients": 8, "malicious": 2},
        "data": {"name": "digits", "limit": 200},
        "attack": {"name": "noise"},
        "defense": {"name": "krum"},
        "server_data": {"samples": 20},
        "record": {"updates": True},
    }
    run = raysim.run(config, name="run", out=tmp_path_factory.mktemp("runs"), backend="inprocess")
    folder = recording.recorded_rounds(run.path / "updates")[0]
    layout = Recorded.of(but(TINY, updates=str(run.path))).experiment.setup.layout
    found = recording.read(folder, layout, InProcessBackend())
    return Run(run.path, found.updates.to_array(), found.truth)


def test_the_first_rows_of_a_run(recorded, tmp_path):
    plan = but(TINY, defense=("trimmed_mean,trim=1", "fltrust"), clients=(5,), updates=str(recorded.path))
    measure(plan, tmp_path)
    (whole,) = {
        (row["digest"], row["malicious"], row["updates"], row["parameters"])
        for row in rows(tmp_path)
        if row["stage"] == WHOLE and row["defense"] == "trimmed_mean,trim=1"
    }
    (subject,) = but(plan, defense=plan.defense[:1]).subjects
    backend = InProcessBackend()
    updates = Updates.from_array(recorded.updates[:5], backend)
    assert isinstance(subject, Judging)
    verdict, _ = subject.defense.apply({}, updates, None)  # type: ignore[arg-type]
    assert whole == (
        digest(*arrays_of(verdict)),
        int(recorded.truth[:5].sum()),
        "run",
        13_706,
    )
    with pytest.raises(ConfigError, match="at most 8"):
        measure(but(plan, clients=(9,)), tmp_path, resume=True)


@pytest.mark.parametrize("rows_per_block", [None, 1, 3, 9])
def test_blocks_hold_the_same_rows(rows_per_block):
    matrix = np.random.default_rng(0).normal(size=(9, 50)).astype(np.float32)
    updates = Updates.from_array(matrix, InProcessBackend(), bounds=(0, 20, 50), rows_per_block=2)
    members = np.array([0, 1, 3, 4, 7, 8])
    again = in_blocks(updates.select(members), rows_per_block)
    assert np.array_equal(again.to_array(), matrix[members])
    assert max(len(block.rows) for block in again.blocks) == min(rows_per_block or 3, 6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeats": 0}, "repeats: should be greater than or equal to 1"),
        ({"malicious": 1.0}, "malicious: should be less than 1"),
        ({"nodes": (1, 2)}, "nodes: must be 1 with backend inprocess"),
        ({"backend": "ray", "kind": "address", "nodes": (1, 2)}, "one number with kind address"),
        ({"backend": "ray", "kind": "raylet"}, "did you mean 'raylets'"),
        ({"backend": "ray", "bandwidth": "1gbit"}, "only kind namespaces has"),
        ({"defense": ("krum", "bulyan,num_byzantine=2")}, "K = 4"),
        ({"clients": (10**9,)}, "must leave room"),
        ({"updates": "no/such/run"}, "holds no run"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, said, tmp_path):
    with pytest.raises((ConfigError, RecordError), match=said):
        measure(but(TINY, **changes), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--defense", "krumm"], "did you mean 'krum'"),
        (["--defense", "num_byzantine=1,krum"], "must begin with a name"),
        (["--defense", "krum", "--defense", "krum"], "every method once"),
        (["--defense", "krum", "--clients", "4,x"], "clients: must be whole numbers"),
        (["--defense", "krum", "--image", "8x8"], "CHANNELSxHEIGHTxWIDTH"),
        (
            ["--defense", "krum", "--model", "resnet50", "--image", "3x32x32", "--parameters", "9"],
            "a `width` option",
        ),
        (["--defense", "krum", "--updates", "run", "--parameters", "9"], "belongs to synthetic updates"),
    ],
)
def test_mistakes_are_refused(words, said, tmp_path):
    result = CliRunner().invoke(app, ["bench", "scaling", *words, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_driver_that_fails_leaves_what_it_finished(tmp_path, monkeypatch):
    plan = but(TINY, backend="ray", defense=("krum",), clients=(4,), repeats=1)
    script: list[str] = []

    class Fails:
        def run(self, words: list[str]) -> int:
            script.extend(words)
            return 3

    monkeypatch.setattr("cluster.clusters.bring_up", lambda *_, **__: contextlib.nullcontext(Fails()))
    with pytest.raises(RunError, match="status 3; finished cells are kept: --resume"):
        measure(plan, tmp_path)
    assert script[-4:] == [
        "raysim.studies.runner", "raysim.studies.scaling.study:Scaling", str(tmp_path), "1",
    ]  # fmt: skip
    assert ScalingPlan(**json.loads((tmp_path / "plan.json").read_text())["plan"]) == plan
    assert not (tmp_path / "stages.parquet").exists()


def test_more_nodes_than_the_machine_has_cpus_for():
    cpus = len(os.sched_getaffinity(0))
    plan = but(TINY, backend="ray", nodes=(1, cpus), cpus_per_node=1)
    assert shared_cpus(plan) == []
    (line,) = shared_cpus(but(plan, cpus_per_node=2))
    assert line == f"{cpus} nodes of 2 CPUs share this machine's {cpus}: no true speed-up"


def test_estimates_compare_a_matrix_with_the_stores():
    plan = but(TINY, backend="ray", nodes=(1, 2), clients=(10_000,), object_store=0.125)
    (line,) = estimates(plan, source_of(plan).sizes)
    assert "K = 10,000, d = 13,706: 523 MiB a matrix, 128 MiB object stores: at least 395 MiB spilled" in line


def test_the_command_ends_with_a_report(tmp_path):
    words = [
        "--defense",
        "krum",
        "--clients",
        "4,5",
        "--model",
        "digits_cnn",
        "--image",
        "1x8x8",
        "--classes",
        "10",
    ]
    more = ["--backend", "inprocess", "--repeats", "1", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["bench", "scaling", *words, *more])
    assert result.exit_code == 0, result.stderr
    assert "krum" in result.stdout
    assert (tmp_path / "scaling.md").read_text().strip() in result.stdout
    assert pq.read_schema(tmp_path / "stages.parquet").equals(TABLES["stages"].arrow)
    spans = rows(tmp_path, "spans")
    assert {span["stage"] for span in spans} >= {"gram", "krum", "synthetic"}


def on_two_nodes(out: Path, **changes: Any) -> list[dict[str, Any]]:
    """The rows of whole applies, after checking what nodes must not change and what they must."""
    plan = but(
        TINY,
        cpus_per_node=None,
        backend="ray",
        clients=(8,),
        object_store=0.125,
        defense=("krum",),
        **changes,
    )
    measure(plan, out)
    wholes = [row for row in rows(out) if row["stage"] == WHOLE]
    assert len({row["digest"] for row in wholes}) == 1
    moved = {row["bytes_moved"] for row in wholes if row["nodes"] == 2}
    assert len(moved) == 1  # the tiles are where a round brings them in every repeat
    assert 4 * 4 * 13_706 <= moved.pop() <= 2 * 4 * 8 * 13_706
    memory = rows(out, "memory")
    assert all(row["worker_bytes"] >= row["largest_worker_bytes"] > 2**24 for row in memory)
    assert [row["node"] for row in memory if row["nodes"] == 2] == [0, 1]
    return wholes


@pytest.mark.ray
def test_two_nodes_give_the_bytes_of_one(tmp_path, shares_two_nodes):
    """As hosts of a network where there may be one, else as raylets."""
    kind = {"kind": "raylets"}
    if namespaces.missing() is None:
        kind = {"kind": "namespaces", "bandwidth": "1gbit"}
    wholes = on_two_nodes(tmp_path, nodes=(1, 2), **kind)
    assert [asked["nodes"] for asked in shares_two_nodes] == [1, 2]
    assert all(asked.items() >= kind.items() for asked in shares_two_nodes)
    assert {row["bytes_moved"] for row in wholes if row["nodes"] == 1} == {0}
    assert {(row["kind"], row["cpus_per_node"]) for row in wholes} == {(kind["kind"], 1)}
    assert {row["bandwidth"] for row in wholes} == {kind.get("bandwidth", "")}
