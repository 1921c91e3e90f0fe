"""`raysim bench defenses` and `kernels` at a tiny size: what they compute and show, never how long it takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from raysim.backends.base import InProcessBackend
from raysim.cli.main import app
from raysim.defense import Verdict
from raysim.errors import ConfigError
from raysim.studies.costs import kernels
from raysim.studies.costs.study import CostCell, Defenses, DefensesPlan, measure_subject
from raysim.studies.costs.subjects import FIRST_ROUND, parse_subjects
from raysim.studies.limits import PIECES, gram_product, multiply
from raysim.studies.matrix import MatrixSpec, build_matrix
from raysim.studies.memory import MemoryWatch, task_memory
from raysim.studies.store import SPANS

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


def test_products_alone_are_dealt_to_the_anchors_in_turn(monkeypatch):
    monkeypatch.setattr("raysim.studies.limits.PIECE_ROWS", 2)
    backend, seen = InProcessBackend(), []
    do = backend.map
    monkeypatch.setattr(backend, "map", lambda stage, fn, items: seen.append(items) or do(stage, fn, items))
    multiply(backend)
    multiply(backend, ["a", "b"])
    assert seen == [[(n,) for n in range(PIECES)], [(n, "ab"[n % 2]) for n in range(PIECES)]]
    spans = [span for span in backend.telemetry.spans if span.task >= 0]
    assert len(spans) == 2 * PIECES


def test_a_defense_is_measured_with_the_spans_of_its_stages():
    matrix = build_matrix(TINY, InProcessBackend())
    (krum,) = parse_subjects(["krum,num_byzantine=1"])
    rows, spans = measure_subject(krum, matrix, repeats=2)
    assert [row["repeat"] for row in rows] == [0, 1]
    assert all(row[name] > 0 for row in rows for name in ("wall_s", "copy_s", "gram_s", "gram32_s"))
    for row, of_it in zip(rows, spans, strict=True):
        wholes = [span for span in of_it if span.task == -1]
        assert [span.stage for span in wholes] == ["gram", "krum", "combine"]
        assert sum(span.wall_s for span in wholes) <= row["wall_s"]
        assert wholes[0].bytes_in == 4 * 8 * matrix.updates.dim
        assert wholes[2].bytes_out == 4 * matrix.updates.dim


def test_state_goes_on_from_repeat_to_repeat(monkeypatch: pytest.MonkeyPatch):
    from defenses.krum import Krum

    seen = []

    def apply(self, state, updates, ctx):
        seen.append((state.get("rounds", 0), ctx.round))
        return Verdict(np.zeros(updates.dim, np.float32)), {"rounds": state.get("rounds", 0) + 1}

    monkeypatch.setattr(Krum, "apply", apply)
    measure_subject(*parse_subjects(["krum"]), build_matrix(TINY, InProcessBackend()), repeats=2)
    assert seen == [(number, FIRST_ROUND + number) for number in range(4)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("krumm", "did you mean 'krum'"),
        ("krum,num_byzantine", "name,key=value"),
        ("krum,num_byzantin=1", "num_byzantine"),
    ],
)
def test_a_mistaken_defense_is_refused(name, said):
    with pytest.raises(ConfigError, match=said):
        parse_subjects([name])


def test_memory_that_is_held_is_seen(nothing_kept: None):
    with MemoryWatch() as watch:
        held = np.ones(2**23)  # 64 MiB
        assert held.sum() == 2**23
    assert 2**26 <= watch.growth < 2**27
    assert watch.peak > watch.growth


def test_what_one_process_takes_is_counted_from_where_the_watch_begins(nothing_kept: None):
    def work(watch: MemoryWatch) -> None:
        with watch:
            held = np.ones(2**23)  # 64 MiB, until the last look
            assert held.sum() == 2**23

    peak, taken = task_memory(InProcessBackend(), work)
    assert 2**26 <= taken < 2**27 < peak


def span(defense: str, repeat: int, stage: str, wall_s: float, **more: object) -> dict[str, object]:
    own = {"cell": CostCell(defense).name, "round": repeat, "stage": stage, "wall_s": wall_s, "node": "n"}
    kinds = ("in", "out", "moved", "returned", "spilled", "restored")
    names = ("start_s", "cpu_s", "peak_memory_bytes", "retries", "pid", *(f"bytes_{kind}" for kind in kinds))
    numbers = dict.fromkeys(names, 0)
    return {**numbers, "task": -1, "owner": "defense", "device": "cpu", "peak_gpu_bytes": None, **own, **more}


def measured(
    defense: str, repeat: int, wall_s: float, package: str = "raysim", arrays: str = ""
) -> dict[str, object]:
    own = {"method": defense, "repeat": repeat, "wall_s": wall_s, "package": package, "arrays": arrays}
    limits = {"copy_s": 0.5, "gram_s": 1.0 + repeat, "gram32_s": 0.25, "pass_s": None, "said": ""}
    memory = {"resident_bytes": 300 * 2**20, "task_memory_bytes": 90 * 2**20}
    return {"dim": 10, "row_blocks": 2, "column_shards": 1, **limits, **memory, **own}


def test_the_page_by_hand():
    """Ratios are taken repeat by repeat; what no stage covers stands last; a peer beside what does the same work."""
    rows = [measured("krum", 0, 2.0), measured("krum", 1, 6.0), measured("pdrr,rule=median", 0, 3.0)]
    peers = [
        ("krum", "torch", 9.0),
        ("krum", "numpy", 20.0),
        ("median", "torch", 2.0),
        ("median", "numpy", 4.0),
    ]
    rows += [measured(rule, 0, s, "byzfl", arrays) for rule, arrays, s in peers]
    spans = [
        span("krum", 0, "gram", 1.5), span("krum", 0, "combine", 0.25),
        span("krum", 1, "gram", 5.0, bytes_in=4_000_000, peak_memory_bytes=2**20),
        span("krum", 1, "gram", 0.1, task=0), span("krum", 1, "combine", 0.25),
        span("pdrr,rule=median", 0, "counts", 1.0),
    ]  # fmt: skip
    tables = {
        "defenses": Defenses.tables["defenses"].table(rows),
        "spans": Defenses.tables["spans"].table(spans),
    }
    page = Defenses().page(DefensesPlan(clients=8), tables)
    limits, costs, _, peer, _ = page.sections[1:]
    assert "| one Gram product, float64 | 1.000 | 1.000 | 2.000 |" in limits
    assert costs.splitlines()[2:6] == [
        "| **krum** | 4.000 | 8.00 | 2.50 |  |  |  |  | 300 | 90 |",
        "| gram | 3.250 | 6.50 | 2.00 | 4.0 | 0.0 | 1 | 1 | 1 |  |",
        "| combine | 0.250 | 0.50 | 0.19 | 0.0 | 0.0 | 0 | 1 |  |  |",
        "| (between stages) | 0.500 | 1.00 | 0.31 | 0.0 | 0.0 | 0 | 1 |  |  |",
    ]
    assert peer.splitlines()[2:] == [
        "| krum | 4.000 | krum | 9.000 | 20.000 | 2.25 | 5.00 |",
        "| krum: gram | 3.250 | krum | 9.000 | 20.000 | 2.77 | 6.15 |",
        "| pdrr,rule=median: counts | 1.000 | median | 2.000 | 4.000 | 2.00 | 4.00 |",
    ]


@pytest.mark.usefixtures("drawn")
def test_defenses_shows_limits_and_stages_and_keeps_spans(tmp_path: Path):
    words = ["defenses", "krum", "trimmed_mean", "oracle", *SMALL, "--backend", "inprocess", "--repeats", "2"]
    result = call(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    assert "K = 8 clients, d = 13,706 parameters" in result.stdout
    names = [line.split("|")[1].strip() for line in result.stdout.splitlines() if line.startswith("| ")]
    assert names[5:11] == ["**krum**", "gram", "krum", "combine", "(between stages)", "**trimmed_mean**"]
    assert "**oracle (calibration only)**" in names
    assert "ByzFL" not in result.stdout
    assert (tmp_path / "out" / "defenses-stages.svg").exists()
    assert pq.read_table(tmp_path / "out" / "spans.parquet").column_names == list(SPANS)


def test_defenses_beside_byzfl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = importlib.util.find_spec("byzfl")
    if found is None:
        pytest.skip("byzfl is not installed")
    package = ModuleType("byzfl")  # its rules without the rest of the package, which takes seconds to import
    package.__path__ = list(found.submodule_search_locations or ())
    monkeypatch.setitem(sys.modules, "byzfl", package)
    words = ["defenses", "median", *SMALL, "--backend", "inprocess", "--repeats", "1", "--peers"]
    result = call(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("| median |")]
    assert float(line.split("|")[-2]) > 0


@pytest.mark.ray
def test_defenses_on_ray_knows_the_memory_of_a_task(ray_cluster, tmp_path: Path):
    result = call("defenses", "krum", *SMALL, "--repeats", "1", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    (row,) = pq.read_table(tmp_path / "out" / "defenses.parquet").to_pylist()
    assert row["task_memory_bytes"] >= 4 * 8 * row["dim"]


@pytest.mark.parametrize(
    "words",
    [
        ["defenses", "krumm"],
        ["defenses", "--image", "8x8"],
        ["kernels", "sum"],
        ["defenses", "--repeats", "0"],
    ],
)
def test_mistakes_are_refused(words, tmp_path: Path):
    result = call(*words, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_sums_beside_one_read():
    spec = MatrixSpec("digits_cnn", (1, 8, 8), 10, clients=5, malicious=0)
    spent = kernels.sums_seconds(build_matrix(spec, InProcessBackend()), 2)
    assert list(spent)[:3] == ["first weighted sum", kernels.COMBINE, kernels.READ]
    assert [len(found) for found in spent.values()] == [1, 2, 2, 2, 2]


def test_maps_beside_pytorch_grad_cam():
    try:
        from raysim.studies.costs.peers import peer_package

        peer_package("pytorch_grad_cam")
    except ConfigError as error:
        pytest.skip(str(error))
    spent = kernels.cam_seconds(build_matrix(TINY, InProcessBackend()), 1, 1, peers=True)
    assert list(spent) == [kernels.STAGE, kernels.ALONE, kernels.BIND, kernels.PEER]
    assert all(len(found) == 1 and found[0] > 0 for found in spent.values())


def test_ratios_of_kernels_by_hand():
    sums = {kernels.COMBINE: (3.0, 8.0), kernels.READ: (1.0, 2.0)}
    maps = {kernels.STAGE: (2.0,), kernels.ALONE: (1.0,), kernels.BIND: (0.5,), kernels.PEER: (3.0,)}
    rows = [
        {"kernel": kernel, "image": image, "work": work, "repeat": n, "wall_s": s}
        for kernel, image, found in (("sums", "1x28x28", sums), ("cam", "3x32x32", maps))
        for work, spent in found.items()
        for n, s in enumerate(spent)
    ]
    study = kernels.Kernels()
    page = study.page(kernels.KernelsPlan(), {"kernels": study.tables["kernels"].table(rows)})
    assert "Weighted sum / one read: 3.50." in page.sections
    assert (
        "pytorch-grad-cam / maps alone: 3.00. (Parameters in place + pytorch-grad-cam) / as tasks: 1.75."
        in page.sections
    )
