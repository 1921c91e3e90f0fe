"""The page of nodes: the column that foretells follows from its own tables, and lies as near as the remark says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from defenses.table import DEFENSES
from raysim.studies.scaling.foretold import from_one_node
from raysim.studies.scaling.read import LIMIT_LABELS, OneMatrix, views
from raysim.studies.scaling.tables import COLUMNS, LIMITS
from raysim.studies.stages import WHOLE

RESULTS = Path(__file__).parents[2] / "docs" / "results"
PAGE = (RESULTS / "tables" / "nodes.md").read_text(encoding="utf-8")
NEAR = 0.25


def number(pattern: str) -> str:
    found = re.search(pattern, PAGE)
    assert found is not None, pattern
    return found.group(1)


def table(title: str) -> list[list[str]]:
    """The rows of the table under a title."""
    lines = PAGE.split(f"#### {title}", 1)[1].split("\n#", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][
        1:
    ]


def seconds(cell: str) -> float:
    return float(cell.partition(" ")[0])


@pytest.fixture(scope="module")
def view() -> OneMatrix:
    """What the page's tables say, as a measurement of one repeat."""
    empty: dict[str, Any] = {
        name: "" if kind == "string" else 0 for name, (kind, _) in COLUMNS["stages"].items()
    }
    K, d = int(number(r"K = (\d+) clients")), int(number(r"d = ([\d,]+) parameters").replace(",", ""))
    cell = {
        **empty,
        **{"clients": K, "parameters": d, "cpus_per_node": int(number(r"cpus_per_node\s(\d+)"))},
        **{"machine_cpus": int(number(r", (\d+) CPUs")), "bandwidth": number(r"bandwidth\s(\w+)")},
    }
    labels = {label: stage for stage, label in LIMIT_LABELS.items()}
    rows = []
    for label, nodes, shown, *_ in table("Seconds per round"):
        defense, stage = (LIMITS, labels[label]) if label in labels else (label, WHOLE)
        row = {"defense": defense, "stage": stage, "nodes": int(nodes), "order": -1, "wall_s": seconds(shown)}
        rows.append({**cell, **row})
    for nodes in sorted({row["nodes"] for row in rows}):
        workers, method = nodes * cell["cpus_per_node"], ""
        stages = table(f"Stages at K = {K}, {nodes} node{'s' * (nodes > 1)}")
        for order, (name, shown, _, _, _, _, tasks, _, idle, *_) in enumerate(stages):
            if name.startswith("**"):
                method = name.strip("*")
                continue
            busy = 0.0 if idle == "-" else (1 - seconds(idle) / 100) * seconds(shown) * workers
            row = {"defense": method, "stage": name, "order": order, "nodes": nodes, "wall_s": seconds(shown)}
            rows.append({**cell, **row, "busy_s": busy, "tasks": int(tasks)})
    (found,) = views(rows, [], (), lambda row: ("", "the page"))
    return found


def test_what_is_foretold_follows_from_the_pages_own_stages(view: OneMatrix):
    """But for digits that the tables do not show."""
    lines = table("Foretold from one node")
    assert len(lines) == len(view.defenses) * (len(view.nodes) - 1)
    for method, nodes, measured, told, links, ratio in lines:
        again = from_one_node(view, method, view.clients[-1], int(nodes))
        assert again == pytest.approx((float(told), float(links)), rel=0.03), (method, nodes)
        assert float(ratio) == pytest.approx(float(measured) / float(told), rel=0.02)


def test_defenses_are_foretold_as_nearly_as_the_remark_says():
    assert "What was measured is within 25 % of what is foretold" in (RESULTS / "nodes.md").read_text()
    ratios = {
        (method, nodes): float(ratio)
        for method, nodes, *_, ratio in table("Foretold from one node")
        if method.partition(",")[0] in DEFENSES
    }
    assert {nodes for _, nodes in ratios} == {"2", "4"}
    assert all(abs(ratio - 1) <= NEAR for ratio in ratios.values()), ratios
