"""A driver for Ray clusters of one, two and four nodes on this machine, which grow and lose a node.

    python -m tests.tiles_over_nodes CONFIG OUT

For 1, 2 and 4 nodes: digests of what the pairwise defenses say of a few rows in small tiles. Then the configuration's run on
four nodes, of which one is lost with the part of the defense's memory that it made in the round before the one in which the
defense waits. OUT/found.json has the digests, and the nodes that were used and lost.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PAIRWISE = ("fedgrad", "flame", "flare", "fldetector", "foolsgold", "krum")
"""Defenses that work beside tiles, of pairs or of rows."""

ON_NODES = {"RAY_max_direct_call_object_size": "100"}
"""Else what is smaller than 100 KB lies in the messages of whoever asked for it, and no node that is lost has it."""


def said_of_rows(backend: Any) -> dict[str, str]:
    """Digest of two rounds' verdicts by name, in tiles of 3 x 3."""
    from raysim.runs.directory import digest
    from tests.contract.test_contract_pairs import judged
    from tests.tiled_methods import small_tiles

    found = {}
    for name in PAIRWISE:
        with small_tiles():
            verdicts = judged(name, backend=backend, rows_per_block=3)
        found[name] = digest(
            *(
                getattr(verdict, field)
                for verdict in verdicts
                for field in ("aggregate", "weights", "scores", "flagged")
                if getattr(verdict, field) is not None
            )
        )
    return found


def start_workers(cluster: Any) -> None:
    """A task on every node, so that each has a process that takes more."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    begin = ray.remote(digest_of_nothing)
    nodes = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in cluster.list_all_nodes()]
    ray.get([begin.options(scheduling_strategy=node).remote() for node in nodes])


def digest_of_nothing() -> str:
    from raysim.runs.directory import digest

    return digest()


def main(config: dict[str, Any], out: Path) -> None:
    os.environ.update(ON_NODES)
    from raysim.backends import ray_connection

    ray_connection.authenticate(os.environ, new_cluster=True)
    from ray.cluster_utils import Cluster

    import raysim
    from raysim.backends.capacity import ClientActors
    from raysim.runs.directory import RunDirectory

    defense = config["defense"]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    found: dict[str, Any] = {"said": {}, "used": {}, "lost": ""}
    joined: list[Any] = []

    def disturb(event: Any) -> None:
        if not event.row or event.round + 1 != defense["round"] or found["lost"]:
            return
        spans = RunDirectory(out / "disturbed").read("spans").to_pylist()
        made = {
            span["node"] for span in spans if (span["round"], span["stage"]) == (event.round, "similarity")
        }
        lost = next(node for node in joined if node.node_id[:12] in made)
        cluster.remove_node(lost, allow_graceful=False)
        found["lost"] = lost.node_id[:12]
        Path(defense["file"]).touch()

    with ray_connection.connected(cluster.address):
        from raysim.backends.ray_backend import RayBackend

        for nodes in (1, 2, 4):
            while len(joined) + 1 < nodes:
                joined.append(cluster.add_node(num_cpus=1))
            cluster.wait_for_nodes()
            start_workers(cluster)
            backend = RayBackend(ClientActors(0), workers=nodes, placement="spread")
            found["said"][nodes] = said_of_rows(backend)
            found["used"][nodes] = sorted({span.node for span in backend.telemetry.drain()})
        run = raysim.run(config, name="disturbed", out=out, address=cluster.address, observe=disturb)
        found["disturbed"] = run.digest
    (out / "found.json").write_text(json.dumps(found))
    cluster.shutdown()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
