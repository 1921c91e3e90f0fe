"""Seconds on several nodes beside what one node foretells: from tables of known numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster import namespaces
from raysim.composition.over_nodes import Rows
from raysim.studies.runner import carry_out
from raysim.studies.scaling.foretold import from_one_node, rows_of
from raysim.studies.scaling.presets import NodesPlan, NodesStudy
from raysim.studies.scaling.read import OneMatrix, views
from raysim.studies.scaling.tables import COLUMNS, LIMITS, TABLES
from raysim.studies.stages import WHOLE

CELL: dict[str, Any] = {
    **dict.fromkeys((name for name, (kind, _) in COLUMNS["stages"].items() if kind != "string"), 0),
    **dict.fromkeys((name for name, (kind, _) in COLUMNS["stages"].items() if kind == "string"), ""),
    "clients": 40,
    "parameters": 250_000,
    "cpus_per_node": 1,
    "machine_cpus": 2,
    "bandwidth": "100mbit",
}


def view_of(stages: dict[str, tuple[float, int]], products: tuple[float, float] | None) -> OneMatrix:
    """A defense of stages of (seconds, tasks) on one node and on two, half of them work; products on both."""
    rows = []
    for nodes in (1, 2):
        cell = {**CELL, "nodes": nodes, "nodes_used": nodes}
        rows.append({**cell, "defense": "it", "stage": WHOLE, "order": -1, "wall_s": 9.0, "digest": "a"})
        for order, (stage, (seconds, tasks)) in enumerate(stages.items()):
            row = {"defense": "it", "stage": stage, "order": order, "wall_s": seconds, "busy_s": seconds / 2}
            rows.append({**cell, **row, "tasks": tasks * (nodes if stage == "norms" else 1)})
        if products:
            row = {"defense": LIMITS, "stage": "products", "wall_s": products[nodes - 1], "tasks": 8}
            rows.append({**cell, **row})
    (view,) = views(TABLES["stages"].table(rows).to_pylist(), [], (), lambda row: ("", "a matrix"))
    return view


def test_cores_are_worth_what_products_alone_gain_and_the_server_has_more_tasks():
    """4 s, 2 of them the server's for two tasks; on two nodes four tasks, and two cores worth 1.6."""
    assert from_one_node(view_of({"norms": (4.0, 2)}, (0.8, 0.5)), "it", 40, 2)[0] == pytest.approx(
        4 + 2 / 1.6
    )
    assert from_one_node(view_of({"norms": (4.0, 2)}, None), "it", 40, 2)[0] == pytest.approx(4 + 2 / 2)


def test_columns_cross_once():
    """10 MB at .9 of 100 Mbit/s; what follows finds them there."""
    view = view_of({"gram": (1.0, 8), "signs": (1.0, 8)}, None)
    told, links = from_one_node(view, "it", 40, 2)
    assert links == pytest.approx(80 / 90)
    assert told == pytest.approx(0.5 + 80 / 90 + 0.25 / 4 + 0.5 + 0.25)


def test_how_the_matrix_lay_is_read_from_numbers_of_tasks():
    view = view_of({"norms": (1.0, 2), "gram": (1.0, 8), "combine": (1.0, 12), "fit": (1.0, 1)}, (1.0, 1.0))
    assert rows_of(view, 40, 2) == Rows(40, 250_000, shards=8, blocks=4)


NEAR = 0.25


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.namespaces
@pytest.mark.skipif(namespaces.missing() is not None, reason=f"namespaces need {namespaces.missing()}")
@pytest.mark.skipif(
    not os.environ.get("RAYSIM_TEST_SECONDS"),
    reason="compares seconds, so it needs a machine that does nothing else: RAYSIM_TEST_SECONDS=1",
)
def test_seconds_on_two_and_four_nodes_are_those_foretold_from_one(tmp_path: Path):
    """A defense that looks at rows, one at pairs and one at order statistics: 16 LEAF CNNs, hosts of a CPU, links of 1 Gbit/s."""
    methods = ("norm_clip", "krum", "median")
    plan = NodesPlan(
        defense=methods,
        clients=(16,),
        nodes=(1, 2, 4),
        kind="namespaces",
        bandwidth="1gbit",
        cpus_per_node=1,
        object_store=1.0,
    )
    carry_out(NodesStudy(), plan, tmp_path, tell=lambda line: None)
    rows = pq.read_table(tmp_path / "stages.parquet").to_pylist()
    (view,) = views(rows, [], methods, lambda row: ("", "a matrix"))
    ratios = {
        (method, nodes): view.found[method, WHOLE, view.size(16, nodes)].wall_s.median
        / from_one_node(view, method, 16, nodes)[0]
        for method in methods
        for nodes in (2, 4)
    }
    assert all(abs(ratio - 1) <= NEAR for ratio in ratios.values()), ratios
