"""`raysim bench rounds` over a grid: cells, refusals, resuming, what a driver writes, and what the report says of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from cluster import Cluster, clusters
from raysim.backends.telemetry import Owner, Span
from raysim.cli.main import app
from raysim.errors import ConfigError, RecordError, RunError
from raysim.studies.figure import large_parts
from raysim.studies.rounds import growth as rounds_growth
from raysim.studies.rounds.growth import Growth, GrowthCell, GrowthPlan
from raysim.studies.rounds.growth_cell import measure_cell
from raysim.studies.rounds.growth_page import after, views_of
from raysim.studies.rounds.tables import COLUMNS, TABLES
from raysim.studies.runner import carry_out
from raysim.studies.stages import AFTER, after_the_last_client, stage_rows
from raysim.studies.store import Store, read_json

ONE: dict[str, Any] = {"case": ("digits",), "rounds": 1, "cpus_per_node": 2}
TINY = GrowthPlan(**ONE, clients=(4,), repeats=1)


def measure(plan: GrowthPlan, out: Path, **options: Any) -> str:
    return carry_out(Growth(), plan, out, **{"tell": lambda line: None, **options})


def of_round(spans: list[Span], wall_s: float, cpu_s: float, digest: str) -> list[dict[str, Any]]:
    return stage_rows(spans, wall_s=wall_s, cpu_s=cpu_s, started_s=0.0, result=digest)


def rows_of(plan: GrowthPlan, cell: GrowthCell, seconds: float, digest: str = "same") -> list[dict[str, Any]]:
    """What a driver would write of a repeat of one round: a whole of so many seconds, half of it training."""
    common = {
        **vars(cell),
        **{"model": "digits_cnn", "parameters": 13706, "kind": plan.kind, "bandwidth": ""},
        **{"cpus_per_node": plan.cpus_per_node, "gpus_per_node": plan.gpus_per_node, "clients_per_stack": 5},
        **{"actors": 2, "actor_nodes": cell.nodes, "actor_gpus": 0, "seed": 0, "round": 0, "started_s": 0.0},
    }
    spans = [span("train", -1, seconds / 2), span("train", 0, seconds / 4), span("gram", -1, seconds / 4)]
    return [{**common, **row} for row in of_round(spans, seconds, 0.0, digest)]


def span(stage: str, task: int, wall_s: float) -> Span:
    return Span(stage, task, "node", 0.0, wall_s, 1.0, 10, 20, 30, bytes_moved=5)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Clusters that are never up, and drivers that write their parts at once: seconds = 0.1 K / nodes."""
    ran: list[tuple[str, int]] = []

    class Here(Cluster):
        def run(self, words: Any) -> int:
            out, nodes = Path(words[-2]), int(words[-1])
            plan, store = GrowthPlan(**read_json(out / "plan.json")["plan"]), Store(out, TABLES)
            for cell in Growth().cells(plan):
                if cell.nodes == nodes and not store.is_finished(cell):
                    ran.append((cell.name, nodes))
                    store.write(cell, {"rounds": rows_of(plan, cell, 0.1 * cell.clients / nodes)})
            return 0

    @contextlib.contextmanager
    def bring_up(kind: str, **options: Any) -> Iterator[Cluster]:
        yield Here("here:1", {})

    monkeypatch.setattr(clusters, "bring_up", bring_up)
    return ran


def call(*words: str) -> Result:
    return CliRunner().invoke(app, ["bench", "growth", *words])


def test_the_grid_holds_every_combination_and_an_order_of_its_own_for_each_repeat():
    plan = GrowthPlan(
        **ONE,
        clients="4,8",
        nodes="1,2",
        clients_per_actor="auto,1",
        client_gpus="0,0.1",
        repeats=4,
        gpus_per_node=1,
    )
    cells = Growth().cells(plan)
    assert len(set(cells)) == 8 * 2 * 4
    assert [cell.nodes for cell in cells] == [1] * 32 + [2] * 32
    orders = [
        [str(replace(cell, repeat=0)) for cell in cells if (cell.nodes, cell.repeat) == (2, repeat)]
        for repeat in range(4)
    ]
    assert len({tuple(sorted(order)) for order in orders}) == 1
    assert len({tuple(order) for order in orders}) > 1
    assert Growth().cells(plan) == cells


def test_defenses_are_a_part_of_the_grid():
    plan = GrowthPlan(case="leaf", defense="krum,pdrr,q=0.9", clients="8")
    krum, pdrr = plan.grid_of(1)
    assert krum.variant(several=True) == "krum; auto per actor"
    assert krum.variant(several=False) == "auto per actor"
    assert {pdrr.variant(several=several) for several in (False, True)} == {"pdrr,q=0.9; auto per actor"}
    assert [component.name for component in plan.config(pdrr).defense] == ["pdrr"]


def test_after_the_last_client_ends_with_the_verdict():
    """Calls end at 3 and 5 s, stages of the defense at 6 and 9 s; evaluation is none."""

    def at(stage: str, task: int, start_s: float, wall_s: float, owner: Owner) -> Span:
        return Span(stage, task, "node", start_s, wall_s, 0.0, 0, 0, 0, owner=owner)

    calls = [
        at("train", -1, 0, 5.5, "client"),
        at("train", 0, 1, 2, "client"),
        at("train", 1, 1, 4, "client"),
    ]
    judged = [
        at("gram", -1, 5, 1, "defense"),
        at("judge", -1, 4, 5, "defense"),
        at("gram", 0, 5, 9, "defense"),
    ]
    assert after_the_last_client([*calls, *judged, at("evaluate", -1, 9, 9, "engine")]) == 4.0
    assert after_the_last_client(calls) is None


def test_what_follows_the_last_client_is_compared_with_one_node():
    plan = GrowthPlan(**ONE, clients="4", nodes="1,2")
    rows = []
    for nodes, seconds in ((1, 2.0), (2, 1.5)):
        (cell,) = plan.grid_of(nodes)
        whole, *stages = rows_of(plan, cell, 8.0)
        rows += [whole, *stages, {**whole, "stage": AFTER, "order": 9, "wall_s": seconds, "digest": ""}]
    (view,) = views_of(rows, [], plan.grid_of(1))
    assert "| 2 | 1.50 (0.75) |" in after(view)
    assert AFTER not in [entry.stage for entry in view.stages("auto per actor", 4, 2)]


def test_a_case_has_its_own_number_of_clients_where_none_is_asked_for():
    assert [cell.clients for cell in GrowthPlan().grid_of(1)] == [100, 24]


def test_a_cell_is_a_configuration():
    config = TINY.config(GrowthCell(1, 0, "digits", 20, "10", 0.05))
    assert config.population.clients == 20
    assert (config.resources.clients_per_actor, config.resources.client_gpus) == (10, 0.05)
    assert config.rounds == rounds_growth.WARM_UP + 1 + 1
    assert config.checkpoint.every == 1


def test_cells_that_fit_neither_the_gpus_nor_the_memory_have_an_obstacle(monkeypatch):
    plan = GrowthPlan(case="digits", gpus_per_node=1)
    assert plan.obstacle(GrowthCell(1, 0, "digits", 100, "1", 0.01)) == ""
    assert "there are 1 GPUs" in plan.obstacle(GrowthCell(1, 0, "digits", 101, "1", 0.01))
    assert plan.obstacle(GrowthCell(2, 0, "digits", 101, "1", 0.01)) == ""
    monkeypatch.setattr(rounds_growth, "ACTOR_BYTES", 2**60)
    assert "memory holds 0" in plan.obstacle(GrowthCell(1, 0, "digits", 5, "1", 0.0))


def test_the_plan_survives_json():
    plan = GrowthPlan(case="digits", nodes="1,2", clients_per_actor="auto,3", client_gpus="0.5")
    assert GrowthPlan(**json.loads(json.dumps(plan.model_dump(mode="json")))) == plan


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"case": "digit"}, "did you mean 'digits'"),
        ({"repeats": 0}, "repeats: should be greater than or equal to 1"),
        ({"rounds": 0}, "rounds: should be greater than or equal to 1"),
        ({"kind": "raylet"}, "did you mean 'raylets'"),
        ({"nodes": (2,), "kind": "local"}, "must be 1 with kind local"),
        ({"cpus_per_node": 0}, "cpus_per_node: should be greater than or equal to 1"),
        ({"client_gpus": (0.5,)}, "must have a cell that can be measured"),
        ({"client_gpus": "1.5"}, "client_gpus: should be less than or equal to 1"),
        ({"client_gpus": "half"}, "client_gpus: must be numbers from 0 to 1"),
        ({"clients_per_actor": "0"}, "clients_per_actor: must be auto or whole numbers"),
        ({"clients_per_actor": ""}, "clients_per_actor: must be auto or whole numbers"),
        ({"backend": "inprocess"}, "backend: must be ray"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused_before_anything_starts(plan, said, tmp_path, driver):
    with pytest.raises(ConfigError, match=said):
        measure(GrowthPlan(**{"case": "digits", **plan}), tmp_path / "out")
    assert driver == []
    assert not (tmp_path / "out").exists()


def test_a_measurement_goes_on_where_it_stopped_and_grows(tmp_path, driver):
    out = tmp_path / "out"
    small = GrowthPlan(**ONE, clients="4,8", repeats=2)
    measure(small, out)
    assert len(driver) == 4
    with pytest.raises(RecordError, match="--resume"):
        measure(small, out)
    first = pq.read_table(out / "rounds.parquet")
    measure(small, out, resume=True)
    assert len(driver) == 4
    assert pq.read_table(out / "rounds.parquet") == first
    next((out / "parts" / "rounds").glob("*repeat1*clients8*")).unlink()
    grown = GrowthPlan(**ONE, clients="4,8,16", nodes="1,2", repeats=2)
    measure(grown, out, resume=True)
    assert len(driver) == 4 + 1 + 2 + 6
    assert pq.read_table(out / "rounds.parquet").num_rows == 2 * 6 * 4
    with pytest.raises(RecordError, match="gpus_per_node 0, not 3"):
        measure(GrowthPlan(**ONE, clients=(4,), gpus_per_node=3), out, resume=True)


def test_cells_that_cannot_be_measured_are_told_of_and_reported(tmp_path, driver):
    told: list[str] = []
    plan = GrowthPlan(
        **ONE, clients=(4,), clients_per_actor="1", client_gpus="0,0.5", repeats=1, gpus_per_node=1
    )
    text = measure(plan, tmp_path, tell=told.append)
    assert len(driver) == 1
    assert len(told) == 1
    assert "left out: digits, 4 clients, nodes 1, 1 per actor, 0.5 GPU each" in told[0]
    assert "## Left out" in text


def test_a_driver_that_fails_is_an_error_that_says_how_to_go_on(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def bring_up(kind: str, **options: Any) -> Iterator[Cluster]:
        yield Cluster("here:1", {}, inside=("false",))

    monkeypatch.setattr(clusters, "bring_up", bring_up)
    with pytest.raises(RunError, match="--resume"):
        measure(TINY, tmp_path / "out")


def test_the_rows_of_a_round_add_up_to_the_whole():
    spans = [span("train", -1, 2.0), span("train", 0, 1.5), span("train", 1, 1.9), span("gram", -1, 1.0)]
    whole, train, gram, between = of_round(spans, 4.0, 2.5, "abc")
    assert [row["stage"] for row in (whole, train, gram, between)] == [
        "(whole)", "train", "gram", "(between stages)"
    ]  # fmt: skip
    assert (whole["wall_s"], whole["cpu_s"], whole["tasks"], whole["digest"]) == (4.0, 2.5, 2, "abc")
    assert (train["wall_s"], train["tasks"], train["bytes_moved"]) == (2.0, 2, 5)
    assert whole["bytes_moved"] == 10
    assert between["wall_s"] == 1.0
    assert [row["order"] for row in (whole, train, gram, between)] == [-1, 0, 1, 2]


def test_a_repeat_counts_with_the_median_of_its_rounds():
    (cell,) = TINY.grid_of(1)
    rows = [row for s in (1.0, 5.0, 2.0) for row in rows_of(TINY, cell, s)]
    rows += rows_of(TINY, replace(cell, repeat=1), 4.0)
    (view,) = views_of(rows, [], [cell])
    found = {stage: entry for (_, stage, _), entry in view.found.items()}
    np.testing.assert_allclose(found["(whole)"].wall_s.all, [2.0, 4.0])
    np.testing.assert_allclose(found["train"].wall_s.all, [1.0, 2.0])
    assert found["(whole)"].repeats == (0, 1)


def test_stages_that_never_matter_are_drawn_together():
    bars = [{"train": 0.5, "tiny": 0.005, "gram": 0.4}, {"gram": 0.01, "train": 1.0}]
    assert large_parts(bars) == ["train", "gram"]
    many = {f"stage {n}": 1.0 + n for n in range(9)}
    assert large_parts([many]) == [f"stage {n}" for n in range(2, 9)]


@pytest.mark.usefixtures("drawn")
def test_the_report_says_growth_speed_up_and_whether_bytes_are_equal(tmp_path, driver):
    plan = GrowthPlan(**ONE, clients="4,8,16", nodes="1,2", repeats=3)
    text = measure(plan, tmp_path)
    assert (tmp_path / "growth.md").read_text() == text
    assert "1.00 [1.00, 1.00]" in text  # seconds = 0.1 K / nodes
    assert "2.00 [2.00, 2.00], 100 %" in text
    assert "Equal global parameters" in text
    assert "9,000 (2 on 1; 5)" in text  # 0.4 s a round
    assert all((tmp_path / name).exists() for name in ("growth-growth.png", "growth-stages-0.svg"))
    law = pq.read_table(tmp_path / "growth.parquet").to_pylist()[0]
    assert law["exponent"] == pytest.approx(1.0)
    cell = plan.grid_of(2)[0]
    Store(tmp_path, TABLES).write(cell, {"rounds": rows_of(plan, cell, 0.2, digest="other")})
    again = measure(plan, tmp_path, resume=True)
    assert "RESULTS DIFFER between nodes, actors or repeats: digits, krum, K = 4.**" in again


@pytest.mark.usefixtures("drawn")
def test_defenses_are_named_and_each_is_compared_with_itself_alone():
    """Two that end in different bytes, each in its own on one node and on two; then one that does not."""
    plan = GrowthPlan(**ONE, defense="krum,median", clients="4", nodes="1,2", repeats=2)
    cells = Growth().cells(plan)
    rows = [row for cell in cells for row in rows_of(plan, cell, 1.0, digest=cell.rule)]

    def text(rows: list[dict[str, Any]]) -> str:
        tables = {"rounds": TABLES["rounds"].table(rows), "memory": TABLES["memory"].table([])}
        return "\n\n".join(Growth().page(plan, tables).sections)

    agreed = text(rows)
    assert "Equal global parameters after every round" in agreed
    assert "in all repeats, for each defense." in agreed
    assert all(f"| {name}; auto per actor | 2 | 1.00" in agreed for name in plan.defense)
    assert "| auto per actor" not in agreed
    other = [
        {**row, "digest": "other"} if (row["rule"], row["nodes"]) == ("median", 2) else row for row in rows
    ]
    assert "RESULTS DIFFER between nodes, actors or repeats: digits, median, K = 4.**" in text(other)


@pytest.mark.ray
def test_a_cell_is_measured_on_its_own_actors(ray_cluster):
    cell = GrowthCell(1, 0, "digits", 4, "2", 0.25)
    found = measure_cell(TINY, cell, None)
    timed = found["rounds"]
    assert found["memory"] == []
    assert {row["stage"] for row in found["spans"]} >= {"train", "gram"}
    stages = [row["stage"] for row in timed]
    assert stages[0] == "(whole)"
    assert {"train", "gram", "evaluate", "record", "checkpoint", "(between stages)"} <= set(stages)
    whole, once = timed[0], [row for row in timed[1:] if row["stage"] != AFTER]
    assert [row["wall_s"] > 0 for row in timed if row["stage"] == AFTER] == [True]
    assert (whole["actors"], whole["actor_nodes"], whole["actor_gpus"]) == (2, 1, 1)
    assert whole["clients_per_stack"] == 1
    assert whole["wall_s"] == pytest.approx(sum(row["wall_s"] for row in once), rel=1e-6)
    assert set(whole) | set(vars(cell)) == set(COLUMNS["rounds"])
    assert len(whole["digest"]) == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits", "--clients", "4,x"], "clients: must be whole numbers"),
        (["digits", "--client-gpus", "2"], "client_gpus: should be less than or equal to 1"),
        (["digits", "--repeats", "0"], "repeats: should be greater than or equal to 1"),
    ],
)
def test_mistakes_on_the_command_line_are_status_2(words, said):
    done = call(*words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_the_command_measures_and_prints_the_report(tmp_path, driver):
    done = call("digits", "--clients", "4,8", "--repeats", "1", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    assert "What simulated rounds cost" in done.stdout
    again = call("digits", "--clients", "4,8", "--repeats", "1", "--out", str(tmp_path / "out"), "--resume")
    assert again.exit_code == 0, again.output
    assert len(driver) == 2
