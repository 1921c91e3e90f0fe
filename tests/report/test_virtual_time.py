"""The simulated rounds beside the verdict's cost, by hand, and on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysim.report.finished_run import read_finished_run
from raysim.report.page import render
from raysim.report.virtual_time import VirtualTime, virtual_stack, virtual_time

THREE = VirtualTime(
    np.arange(3), np.array([0.0, 10.0, 30.0]), np.array([10.0, 20.0, 40.0]), np.array([9.0, 1.0, 1.0])
)


def test_the_sentence_takes_medians_without_the_first_round() -> None:
    """20 and 40: 30; 1 and 1: 1; 1/20 and 1/40: 3.75 %."""
    assert THREE.sentence == (
        "a simulated round takes 30.0 s of virtual time, and the verdict delays it by 1.00 s here, 3.8 %; "
        "70.0 s in 3 rounds"
    )
    alone = VirtualTime(
        *(column[:1] for column in (THREE.rounds, THREE.start_s, THREE.virtual_s, THREE.verdict_s))
    )
    assert "takes 10.0 s of virtual time, and the verdict delays it by 9.00 s here, 90 %" in alone.sentence
    assert THREE.rows[1] == (1, 10.0, 20.0, 1.0, 0.05)


def test_the_verdict_stands_on_the_round_that_it_delays() -> None:
    axes = virtual_stack(THREE).axes[0]
    bars = [(bar.get_y(), bar.get_height()) for bar in axes.patches]
    assert bars == [(0.0, 10.0), (0.0, 20.0), (0.0, 40.0), (10.0, 9.0), (20.0, 1.0), (40.0, 1.0)]


def with_virtual_time(folder: Path) -> Path:
    table = pq.read_table(folder / "rounds.parquet")
    for name in ("virtual_start_s", "virtual_s"):
        column = pa.array(np.arange(len(table)) * 50.0 + (50.0 if name == "virtual_s" else 0.0))
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, folder / "rounds.parquet")
    return folder


def test_the_verdict_is_the_defenses_stages_of_the_round(write_run: Callable[..., Path]) -> None:
    run = read_finished_run(with_virtual_time(write_run(maps=None)))
    time = virtual_time(run.rounds, run.spans)
    assert time is not None
    spans = run.spans
    here = (spans["round"] == 2) & (spans["task"] == -1) & (spans["owner"] == "defense")
    assert time.rows[2] == (
        2, 100.0, 150.0, pytest.approx(spans["wall_s"][here].sum()), pytest.approx(spans["wall_s"][here].sum() / 150)
    )  # fmt: skip


def test_the_page_has_it_where_there_is_virtual_time(write_run: Callable[..., Path], undrawn: None) -> None:
    folder = write_run(maps=None)
    run = read_finished_run(folder)
    assert virtual_time(run.rounds, run.spans) is None
    assert "virtual" not in render(folder).read_text().partition('id="configuration"')[0]
    page = render(with_virtual_time(folder)).read_text()
    assert "Every simulated round in numbers" in page
    assert "Staleness" not in page


def test_the_page_has_the_staleness_of_asynchronous_rounds(
    write_run: Callable[..., Path], undrawn: None
) -> None:
    folder = with_virtual_time(write_run(maps=None))
    table = pq.read_table(folder / "rounds.parquet")
    for name, values in (("staleness_mean", np.arange(6) * 0.5), ("staleness_max", np.arange(6))):
        field = table.schema.field(name)
        table = table.set_column(table.column_names.index(name), name, pa.array(values).cast(field.type))
    pq.write_table(table, folder / "rounds.parquet")
    time = virtual_time(*(getattr(read_finished_run(folder), table) for table in ("rounds", "spans")))
    assert time is not None
    assert time.staleness is not None
    assert time.staleness[3].tolist() == [1.5, 3.0]
    page = render(folder).read_text()
    assert '<th scope="col">Staleness</th>' in page
    assert "<td>1.5</td><td>3</td></tr>" in page
    assert "Updates were 1.2 global models behind on average, 5 at most." in page
