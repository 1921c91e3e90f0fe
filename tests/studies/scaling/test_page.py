"""The scaling report from tables of known numbers: what the page says, which figures there are, what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from raysim.studies.figure import spread_out
from raysim.studies.runner import write_page
from raysim.studies.scaling import sections
from raysim.studies.scaling.figures import moved, runtime, speed_up, split
from raysim.studies.scaling.page import page_of
from raysim.studies.scaling.read import OneMatrix, views
from raysim.studies.scaling.tables import COLUMNS, LIMITS, TABLES
from raysim.studies.stages import WHOLE
from raysim.studies.study import Page

CELL: dict[str, Any] = {
    **dict.fromkeys((name for name, (kind, _) in COLUMNS["stages"].items() if kind != "string"), 0),
    "model": "leaf_cnn",
    "parameters": 250_000,
    "kind": "raylets",
    "cpus_per_node": 1,
    "bandwidth": "",
    "backend": "ray",
    "updates": "synthetic",
    "tasks": 3,
    "nodes_used": 1,
    "digest": "",
}
ABOUT: dict[str, Any] = {
    "environment": {
        "processor": "Some CPU",
        "cpus": 2,
        "python": "3.11",
        "versions": {"ray": "2.52"},
        "commit": "abc",
        "command": ["raysim", "bench", "scaling"],
    },
    "dates": ["1970-01-01 00:00 UTC"],
    "plan": {"defense": ["layercam_ae", "krum"], "seed": 7},
}
STAGES = {"layercam_ae": {"cam": 0.02, "autoencoder": 0.01}, "krum": {"gram": 1e-3}}
"""Defense -> stage -> seconds a client on one node; Krum's are seconds a client squared."""


def rows(clients: tuple[int, ...], counts: tuple[int, ...], repeats: int = 2) -> list[dict[str, Any]]:
    """Exact power laws in K; n nodes take 1/n of the time; the Gram product takes half of Krum's stage."""
    found = []
    for K in clients:
        for n in counts:
            for repeat in range(repeats):
                cell = {**CELL, "clients": K, "nodes": n, "repeat": repeat}
                for defense, stages in STAGES.items():
                    power = 2 if defense == "krum" else 1
                    whole = {
                        **cell,
                        "defense": defense,
                        "stage": WHOLE,
                        "order": -1,
                        "digest": f"{defense}{K}",
                    }
                    for order, (stage, each) in enumerate(stages.items()):
                        seconds = each * K**power / n
                        brought = 4 * 250_000 * K // 4 if n > 1 and stage == "gram" else 0
                        row = {"defense": defense, "stage": stage, "order": order, "wall_s": seconds}
                        row |= {"busy_s": 0.75 * seconds * n}
                        found.append({**cell, **row, "bytes_moved": brought, "peak_memory_bytes": 5 * 2**20})
                        whole["wall_s"] += seconds
                    found.append(whole)
                for stage, seconds in (("draw", 9.0), ("copy", 0.1 * K), ("gram", 5e-4 * K**2 / n)):
                    found.append({**cell, "defense": LIMITS, "stage": stage, "wall_s": seconds})
    return found


def memory_rows(clients: tuple[int, ...], counts: tuple[int, ...]) -> list[dict[str, Any]]:
    names = [name for name in COLUMNS["memory"] if name in CELL]
    sizes = {"worker_bytes": 3 * 2**30, "largest_worker_bytes": 2**30, "store_bytes": 2**29}
    return [
        {
            **{name: CELL[name] for name in names},
            "defense": "krum",
            "clients": K,
            "nodes": n,
            "node": node,
            **sizes,
        }
        for K in clients
        for n in counts
        for node in range(n)
    ]


def page(stages: list[dict[str, Any]], memory: list[dict[str, Any]] | None = None) -> Page:
    tables = {"stages": TABLES["stages"].table(stages), "memory": TABLES["memory"].table(memory or [])}
    return page_of(tables, ABOUT["plan"]["defense"])


def text(shown: Page) -> str:
    return "\n".join(shown.sections)


@pytest.fixture(scope="module")
def full() -> tuple[Page, str]:
    shown = page(rows((10, 20, 40), (1, 2)), memory_rows((10, 20, 40), (1, 2)))
    return shown, text(shown)


def view_of(stages: list[dict[str, Any]]) -> OneMatrix:
    (view,) = views(TABLES["stages"].table(stages).to_pylist(), [], (), lambda row: ("", "a matrix"))
    return view


def cells(markdown: str, title: str, *first: str) -> list[str]:
    """The cells of the one row of a section's table that begins with these."""
    section = markdown.split(f"{title}", 1)[1].split("\n#", 1)[0]
    split_rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if "|" in line
    ]
    (row,) = [row for row in split_rows if row[: len(first)] == list(first)]
    return row[len(first) :]


def test_more_nodes_are_foretold_from_one_and_their_links_are_shown():
    """Krum at K = 40, d = 250,000: 1.6 s on a node, .75 of it work; a quarter of the matrix crosses, 10 MB at 100 Mbit/s, of which
    transfers reach .9, while nodes work on one after the other of two tasks.
    """
    limited = [
        {**row, "bandwidth": "100mbit", "bytes_to_one_node": row["bytes_moved"], "tasks": 4}
        for row in rows((40,), (1, 2))
    ]
    markdown = text(page(limited))
    shown = cells(markdown, "Foretold from one node", "krum", "2")
    assert shown == ["0.800", "1.59", "0.889", "0.50"]  # 0.4 + 0.889 + 0.6 / 2
    assert cells(markdown, "Stages at K = 40, 2 nodes", "gram")[-1] == "0.800"
    assert "link alone" not in text(page(rows((40,), (1, 2))))


def test_bytes_on_disk_are_shown_by_stage_where_there_were_any():
    spilled = [
        {**row, "bytes_spilled": 3e6 * row["order"], "bytes_restored": 5e6} for row in rows((40,), (1,))
    ]
    markdown = text(page(spilled))
    assert cells(markdown, "Stages at K = 40, 1 node", "autoencoder")[-2:] == ["3.0", "5.0"]
    assert cells(markdown, "Stages at K = 40, 1 node", "**layercam_ae**")[-2:] == ["3.0", "10.0"]
    assert "MB restored" not in text(page(rows((40,), (1,))))


@pytest.mark.usefixtures("drawn")
def test_the_page_says_where_it_was_measured(full: tuple[Page, str], tmp_path: Path):
    markdown = write_page("How", ABOUT, full[0], tmp_path / "scaling.md")
    head = markdown.split("##")[0]
    for said in ("Some CPU", "ray 2.52", "commit abc", "seed 7", "defense layercam_ae krum", "1970-01-01"):
        assert said in head
    assert "### leaf_cnn, d = 250,000 parameters" in markdown
    assert "Equal bytes on every number of nodes and in every repeat, for all 6 results compared." in head
    for kind in ("runtime", "growth", "split", "maps", "nodes", "moved"):
        with Image.open(tmp_path / f"scaling-{kind}.png") as picture:
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10  # not one flat colour
        assert "</svg>" in (tmp_path / f"scaling-{kind}.svg").read_text()
        assert f"](scaling-{kind}.svg)" in markdown


def test_seconds_and_growth(full: tuple[Page, str]):
    assert cells(full[1], "#### Seconds per round", "krum", "1") == [
        *("0.100 [0.100, 0.100]", "0.400 [0.400, 0.400]", "1.60 [1.60, 1.60]"),
        *("2.00 [2.00, 2.00]", "2.00", "0 %"),
    ]
    assert cells(full[1], "#### Seconds per round", "layercam_ae", "2")[2:] == [
        *("0.600 [0.600, 0.600]", "1.00 [1.00, 1.00]", "1.00", "0 %"),
    ]
    assert cells(full[1], "#### Seconds per round", "limit: one copy", "1")[0] == "1.00 [1.00, 1.00]"
    order = [full[1].index(f"| {name} | 1 |") for name in ("layercam_ae", "krum", "limit: one copy")]
    assert order == sorted(order)


def test_ratios_to_the_limits(full: tuple[Page, str]):
    assert cells(full[1], "#### Times the Gram product", "krum", "2") == [
        "2.00 (0.0500)",
        "2.00 (0.100)",
        "2.00 (0.200)",
    ]


def test_stages_of_the_largest_cohort(full: tuple[Page, str]):
    title = "#### Stages at K = 40, 2 nodes"
    assert cells(full[1], title, "gram") == [
        *("0.800 [0.800, 0.800]", "100 %", "2.00 [2.00, 2.00]", "2.00", "0 %"),
        *("3", "1", "25 %", "5", "10.0 (25.0 %)", "0.0"),
    ]
    assert cells(full[1], title, "autoencoder")[:2] == ["0.200 [0.200, 0.200]", "33 %"]
    assert cells(full[1], title, "**krum**")[-2] == "10.0 (25.0 %)"


def test_nodes_maps_moved_and_memory(full: tuple[Page, str]):
    markdown = full[1]
    assert cells(markdown, "#### Strong scaling", "krum", "2") == ["2.00 [2.00, 2.00], 100 %"] * 3
    assert cells(markdown, "#### Strong scaling", "limit: one copy", "2")[0] == "1.00 [1.00, 1.00], 50 %"
    assert cells(markdown, "#### Weak scaling", "krum", "2")[1:] == ["0.50 [0.50, 0.50]"] * 2
    assert cells(markdown, "#### Maps alone", "layercam_ae", "1")[2] == "0.800 / 1.20 (1.50 x)"
    assert cells(markdown, "#### MB moved", "krum", "2") == ["2.5 (25.0 %)", "5.0 (25.0 %)", "10.0 (25.0 %)"]
    assert cells(markdown, "#### MB moved", "layercam_ae", "2")[0] == "0.0 (0.0 %)"
    assert cells(markdown, "#### Peak memory", "krum, node 1", "2")[0] == "3.00 / 1.00 / 0.50"
    assert "Spilled" not in markdown


def test_growth_is_kept_as_a_table(full: tuple[Page, str]):
    found = full[0].tables["growth"].to_pylist()
    krum = [row for row in found if (row["defense"], row["stage"], row["nodes"]) == ("krum", "gram", 2)]
    assert [(row["along"], row["clients"], row["parameters"], row["points"]) for row in krum] == [
        ("clients", 0, 250_000, 3)
    ]
    assert krum[0]["exponent"] == pytest.approx(2.0)
    assert krum[0]["low"] == pytest.approx(2.0)


def widths(figure: Figure) -> list[float]:
    """Of the bars that are not empty."""
    bars = [bar for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    return [bar.get_width() for bar in bars if bar.get_width()]


def test_bars_are_as_long_as_the_seconds():
    view = view_of(sorted(rows((10, 20, 40), (1, 2)), key=lambda row: row["defense"] == "krum"))
    assert widths(runtime(view)) == pytest.approx([1.6, 0.8, 1.2, 0.6])
    assert sorted(widths(split(view))) == pytest.approx([1 / 3] * 2 + [2 / 3] * 2 + [1.0] * 2)
    brought = moved(view)
    assert brought is not None
    assert widths(brought) == pytest.approx([10.0])


def test_what_is_missing_is_said():
    few = page([row for row in rows((10, 20), (1,)) if row["defense"] == "krum"])
    markdown = text(few)
    assert "Fewer than three K: no growth exponent is fitted." in markdown
    assert "Growth in d" not in markdown
    for title in ("Times", "Strong", "Weak", "Maps alone", "MB moved", "Peak memory", "Spilled"):
        assert f"#### {title}" not in markdown
    assert cells(markdown, "#### Seconds per round", "krum")[2:] == ["-", "-", "-"]
    assert list(few.figures) == ["runtime", "growth", "split"]
    assert few.tables["growth"].num_rows == 0


def test_spills_and_unequal_bytes_are_prominent():
    table = [row for row in rows((10,), (1,)) if row["defense"] == "krum"]
    for number, row in enumerate(row for row in table if row["stage"] == WHOLE):
        row.update(spilled_bytes=3 * 2**29, digest=f"{number}{'f' * 63}")
    markdown = text(page(table))
    assert "**RESULTS DIFFER: 1 of 1 results" in markdown.split("What is timed")[0]
    assert "0fffffffffff: 1 node (repeat 0); 1fffffffffff: 1 node (repeat 1)" in markdown
    assert "in krum: the object store spilled 1.50 GiB" in markdown


def test_a_row_beyond_the_store_is_shown_beside_one_within():
    """Krum's seconds grow as K^2, so a row of 40 costs twice one of 20; LayerCAM-AE's as K."""
    table = rows((20, 40), (1,))
    products = [row for row in table if (row["defense"], row["stage"]) == (LIMITS, "copy")]
    table += [{**row, "stage": "products"} for row in products]
    for row in table:
        row.update(spilled_bytes=2**30 * (row["clients"] == 40))
    markdown = text(page(table))
    assert cells(markdown, "Milliseconds a row", "krum") == ["20.0", "40.0 (2.00)"]
    assert cells(markdown, "Milliseconds a row", "layercam_ae") == ["30.0", "30.0 (1.00)"]
    assert "products" not in markdown.split("Milliseconds a row", 1)[1].split("####", 1)[0]
    assert "Milliseconds a row" not in text(page(rows((20, 40), (1,))))


def test_answers_to_the_server_are_shown_beside_what_moved():
    returned = [{**row, "bytes_returned": 2e6 * (row["nodes"] - 1)} for row in rows((40,), (1, 2))]
    assert cells(text(page(returned)), "Stages at K = 40, 2 nodes", "gram")[-2:] == ["10.0 (25.0 %)", "2.0"]


def test_the_oracle_is_named_so_in_every_table():
    oracle = [{**row, "defense": "oracle"} for row in rows((10, 20, 40), (1, 2)) if row["defense"] == "krum"]
    for row in oracle:
        row.update(spilled_bytes=2**30)
    memory = [{**row, "defense": "oracle"} for row in memory_rows((10,), (1, 2))]
    markdown = text(page(oracle, memory))
    body = markdown.split("### leaf_cnn", 1)[1]
    assert body.count("oracle (calibration only)") > 10
    assert "oracle" not in body.replace("oracle (calibration only)", "")


def test_several_sizes_get_figures_and_sections_of_their_own(monkeypatch: pytest.MonkeyPatch):
    drawn: list[str] = []

    def draw_nothing(view: OneMatrix, figures: object) -> dict[str, str]:
        drawn.append(view.slug)
        return {}

    monkeypatch.setattr("raysim.studies.scaling.page.draw", draw_nothing)
    base = [row for row in rows((10,), (1,)) if row["defense"] == "krum"]
    table = [{**row, "parameters": d, "wall_s": 1e-6 * d} for d in (100, 1000, 10_000) for row in base]
    markdown = text(page(table))
    assert drawn == ["-d100", "-d1000", "-d10000"]
    assert cells(markdown, "### Growth in d", "krum", "gram", "10", "1") == [
        "1.00 [1.00, 1.00]",
        "1.00",
        "0 %",
    ]


def test_one_node_has_no_speed_up_to_draw():
    view = view_of(rows((10,), (1,), repeats=1))
    assert speed_up(view) is None
    assert moved(view) is None


def test_other_clients_on_other_nodes_have_no_strong_scaling():
    view = view_of([*rows((10,), (1,)), *rows((25,), (2,))])
    assert sections.strong(view) == sections.weak(view) == ""
    assert speed_up(view) is None


def test_labels_move_apart_as_little_as_needed():
    assert spread_out([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert spread_out([0.9, 0.2, 0.91], 0.1) == pytest.approx([0.855, 0.2, 0.955])
    assert spread_out([1.0, 0.98], 0.1) == pytest.approx([1.0, 0.9])
    assert np.diff(spread_out([0.0] * 30, 0.1)) == pytest.approx([0.1] * 29)  # more than there is room for
