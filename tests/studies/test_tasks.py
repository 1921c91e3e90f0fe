"""What the server spends on tasks: what is handed out, counted, and written down."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysim.backends.base import InProcessBackend
from raysim.studies import tasks as module
from raysim.studies.runner import carry_out
from raysim.studies.tasks import Simulated, Tasks, TasksPlan, stages

TINY = TasksPlan(workers=(2, 50), nodes=(1,), tasks=7, columns=6, shards=3, repeats=2, backend="inprocess")


def test_every_stage_is_measured_for_every_number_of_workers(tmp_path: Path) -> None:
    text = carry_out(Tasks(), TINY, tmp_path, tell=lambda line: None)
    rows = pq.read_table(tmp_path / "tasks.parquet").to_pylist()
    names = [name for name, _ in stages(TINY, InProcessBackend())]
    found = [(row["workers"], row["repeat"], row["stage"]) for row in rows]
    assert sorted(found) == sorted((w, repeat, name) for w in (2, 50) for repeat in (0, 1) for name in names)
    by_stage = {(row["workers"], row["stage"]): row for row in rows}
    for workers in (2, 50):
        counts = {name: by_stage[workers, name] for name in names}
        assert [counts[name]["tasks"] for name in names[:2]] == [7, 7]
        assert [counts[name]["objects"] for name in names[:2]] == [0, 7]
        assert counts[module.ON_ROWS]["tasks"] == 2 * workers
        assert counts[module.ON_COLUMNS]["tasks"] == 3 * module.TIMES
    assert by_stage[2, module.ON_COLUMNS]["arguments"] == 2 + 4
    # A hundred blocks are stacked in two, for each of three shards and the buffers.
    assert by_stage[50, module.DRAWN]["tasks"] == 100 + 2 * 4
    assert by_stage[50, module.DRAWN]["arguments"] == 50
    assert by_stage[50, module.ON_COLUMNS]["arguments"] == 2 + 2
    assert min(row["server_bytes"] for row in rows) > 0
    assert "| server, microseconds a task; workers | 2 | 50 |" in text
    assert "| a task for each column shard | 6 | 4 |" in text


@pytest.mark.ray
def test_a_server_takes_itself_to_have_more_workers_than_there_are(ray_cluster: None) -> None:
    from raysim.backends.ray_backend import ClientActors, RayBackend

    backend = RayBackend(ClientActors(0), workers=2)
    simulated = Simulated.of(backend, 40)
    for _, work in stages(TINY, simulated.backend):
        found = simulated.measured(work)
        assert found["server_s"] > 0  # type: ignore[operator]
    assert (backend.workers, backend.telemetry.spans) == (2, [])
    assert found["arguments"] == 2 + 2
