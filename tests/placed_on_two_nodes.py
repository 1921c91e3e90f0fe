"""A driver for a cluster of two nodes: what stages moved between them, by their spans and by other accounts.

    python -m tests.placed_on_two_nodes COLUMNS FILE

writes to FILE, as JSON, for every placement and stage: bytes by the spans ("moved"), by the counters of eth0 ("wire"),
where tasks ran ("nodes"), and the digest of all results. Each node has a CPU and a GPU (logical will do), and holds one
block of ROWS x COLUMNS float32.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from raysim.backends import ray_connection as ray_cluster
from raysim.backends.base import Needs
from raysim.backends.telemetry import WHOLE_STAGE
from raysim.matrix.layout import Layout
from raysim.matrix.row_blocks import RowBlock, cut, maxima_of
from raysim.matrix.updates import Updates
from raysim.runs.directory import digest

ROWS, SHARDS = 4, 4


class Host:
    """Makes blocks of rows; one host a node."""

    def rows(self, seed: int, bounds: tuple[int, ...], after: str = "") -> tuple[Any, ...]:
        """after: a file that must be there first."""
        while after and not Path(after).exists():
            time.sleep(0.01)
        matrix = np.random.default_rng(seed).standard_normal((ROWS, bounds[-1]), np.float32)
        tiles = cut(matrix, bounds)
        return (*tiles, maxima_of(tiles))


def sums(block: np.ndarray, *vectors: np.ndarray) -> list[float]:
    return [float(row.sum() + sum(vector.sum() for vector in vectors)) for row in block]


def reservation(tile: np.ndarray) -> dict[str, float]:
    """What Ray reserved for the task that calls this."""
    import ray

    return ray.get_runtime_context().get_assigned_resources()


def updates_on_both_nodes(backend: Any, columns: int) -> Updates:
    bounds = tuple(range(0, columns + 1, columns // SHARDS))
    kept = backend.call_clients("make", "rows", [(seed, bounds) for seed in (0, 1)], keep=len(bounds))
    return put_together(backend, kept, bounds)


def put_together(backend: Any, kept: list[Any], bounds: tuple[int, ...]) -> Updates:
    every, columns = np.arange(ROWS), bounds[-1]
    blocks = tuple(
        RowBlock(number * ROWS + every, every, tiles, maxima) for number, (tiles, maxima) in enumerate(kept)
    )
    ids = np.arange(2 * ROWS)
    return Updates(backend, Layout.flat(columns), ids, np.ones(2 * ROWS, np.int64), bounds, blocks)


def wire_bytes() -> int:
    """What went through eth0 so far, in both directions; 0 where there is none."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counters = line.strip().partition(":")
        if name == "eth0":
            return int(counters.split()[0]) + int(counters.split()[8])
    return 0


def measured_stages(backend: Any, columns: int) -> dict[str, Any]:
    updates = updates_on_both_nodes(backend, columns)
    backend.telemetry.drain()
    vector = np.ones(columns, np.float32)
    published = backend.put(vector)
    found: dict[str, Any] = {"here": backend.node}
    results = []
    for stage, work in {
        "rows": lambda: updates.map_rows("rows", sums),
        "rows again": lambda: updates.map_rows("rows again", sums),
        "published": lambda: updates.map_rows("published", sums, published),
        "published again": lambda: updates.map_rows("published again", sums, published),
        "by value": lambda: updates.map_rows("by value", sums, vector),
        "sums": lambda: updates.combine(np.linspace(0.1, 0.8, 2 * ROWS), "sums"),
        "columns": lambda: updates.gram("columns"),
        "columns again": lambda: updates.gram("columns again"),
    }.items():
        before = wire_bytes()
        results.append(np.asarray(work()))
        wire = wire_bytes() - before
        spans = backend.telemetry.drain()
        moved = sum(span.bytes_moved for span in spans if span.task == WHOLE_STAGE)
        nodes = [span.node for span in spans if span.task != WHOLE_STAGE]
        found[stage] = {"moved": moved, "wire": wire, "nodes": nodes}
    needs = Needs(cpus=0.5, gpus=0.25, memory=2**20)
    found["reserved"] = backend.run("reserved", reservation, updates.blocks[1].tiles[0], needs=needs)
    found["digest"], found["gram"] = digest(*results), digest(results[-1])
    tiles = [tile for block in updates.blocks for tile in block.tiles[:-1]]
    found["homes"] = [sorted(tile.nodes) for tile in tiles]
    found["homes by Ray"] = locations([tile.object for tile in tiles], found["homes"])
    found["sizes"] = [tile.size for tile in tiles]
    return found


def brought_together(backend: Any, columns: int) -> dict[str, Any]:
    """The second host makes its rows when the first one's are where the column tasks will read them."""
    from raysim.backends.ray_tasks import ended

    bounds = tuple(range(0, columns + 1, columns // SHARDS))
    gathering = backend.gathering(SHARDS, 2**30)
    backend.telemetry.drain()
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "there"

        def land(number: int, answer: Any) -> None:
            gathering.land(answer[0])
            while number == 0 and not all(ended(begun) for begun in gathering.begun):
                time.sleep(0.01)
            there.touch()

        calls = [(0, bounds), (1, bounds, str(there))]
        kept = backend.call_clients("make", "rows", calls, keep=len(bounds), then=land)
    backend.finish("gather", gathering.begun)
    gram = put_together(backend, kept, bounds).gram("columns")
    spans = backend.telemetry.drain()
    last = max(span.start_s + span.wall_s for span in spans if span.stage == "make" and span.task >= 0)
    gathers = [span for span in spans if span.stage == "gather" and span.task >= 0]
    return {
        "moved": {
            stage: sum(s.bytes_moved for s in spans if s.stage == stage and s.task >= 0)
            for stage in ("gather", "columns")
        },
        "before the last": sum(span.bytes_moved for span in gathers if span.start_s < last),
        "gram": digest(gram),
        "without": backend.gathering(SHARDS, 0) is None,
    }


def crafted(backend: Any, columns: int) -> dict[str, Any]:
    """What crafting moves, of three attackers on one node and five honest clients on both, as in a new round each."""
    from attacks.alie import ALIE
    from attacks.ipm import InnerProductManipulation
    from attacks.min_max import MinMax
    from raysim.attack import View

    found = {}
    for stage, attack in {"alie": ALIE(), "ipm": InnerProductManipulation(), "min_max": MinMax()}.items():
        updates = updates_on_both_nodes(backend, columns)
        view = View(updates.select(np.arange(3)), updates.select(np.arange(3, 2 * ROWS)), 2 * ROWS)
        backend.telemetry.drain()
        rows, _ = attack.craft({}, view, None)  # type: ignore[arg-type]
        spans = [span for span in backend.telemetry.drain() if span.task == WHOLE_STAGE]
        assert {span.stage for span in spans} == {stage}
        found[stage] = {"moved": sum(span.bytes_moved for span in spans), "maxima": digest(rows.maxima())}
    return found


def broadcast(backend: Any, columns: int) -> dict[str, Any]:
    """Where a published vector lies when it has been sent to the hosts' nodes, and nobody has read it."""
    published = backend.put(np.ones(columns, np.float32))
    backend.broadcast(published)
    both = sorted({place["node"] for place in backend.client_places()})
    return {
        "both": both,
        "by Ray": locations([published.object], [both], patience_s=60.0),
        "ours": sorted(published.nodes),
    }


def locations(references: list[Any], expected: list[list[str]], patience_s: float = 5.0) -> list[list[str]]:
    """The nodes that Ray says hold the objects; it learns of copies a moment after they are there."""
    import ray
    from ray.experimental import get_object_locations

    from raysim.backends.ray_worker import short_name

    deadline = time.monotonic() + patience_s
    while True:
        by_ray = get_object_locations(references)
        found = [sorted(map(short_name, by_ray[reference]["node_ids"])) for reference in references]
        learnt = all(set(mine) <= set(rays) for mine, rays in zip(expected, found, strict=True))
        if learnt or time.monotonic() > deadline:
            return found
        ray.wait([ray.put(None)])
        time.sleep(0.05)


def where_the_data_cannot_be_worked_on(columns: int) -> dict[str, Any]:
    """Tasks read a block on a node whose CPUs are all reserved by a client actor, and one on a node that is gone."""
    from raysim.backends.placement import Node
    from raysim.backends.ray_backend import ClientActors, RayBackend

    backend = RayBackend(ClientActors(1, cpus=1.0), workers=2)
    backend.start_clients(Host, ())
    updates = updates_on_both_nodes(backend, columns)
    held_by = backend.client_places()[0]["node"]
    backend.telemetry.drain()
    updates.map_rows("reserved", sums, needs=Needs(cpus=1.0))
    reserved = [span.node for span in backend.telemetry.drain() if span.task != WHOLE_STAGE]
    backend._nodes = lambda: [Node(held_by, "a" * 56, 1.0), Node("another", "b" * 56, 1.0)]  # type: ignore[method-assign]
    updates.map_rows("gone", sums)
    gone = [span.node for span in backend.telemetry.drain() if span.task != WHOLE_STAGE]
    backend.close()
    return {"held by": held_by, "reserved": reserved, "gone": gone}


def main(columns: int, target: Path) -> None:
    found: dict[str, Any] = {}
    with ray_cluster.connected(address="auto"):
        from raysim.backends.ray_backend import ClientActors, RayBackend
        from raysim.backends.ray_carrying import WORTH_SENDING

        backend = RayBackend(ClientActors(2), workers=2)
        backend.start_clients(Host, ())
        for backend.placement in ("data", "head", "spread"):
            found[backend.placement] = measured_stages(backend, columns)
        found["gathers at the head"] = backend.gathering(SHARDS, 2**30) is not None
        backend.placement = "data"
        found["crafted"] = crafted(backend, columns)
        if 4 * columns >= WORTH_SENDING:
            found["broadcast"] = broadcast(backend, columns)
        found["gathered"] = brought_together(backend, columns)
        backend.close()
        found["obstacles"] = where_the_data_cannot_be_worked_on(columns)
    target.write_text(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
