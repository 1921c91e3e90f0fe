"""Replay defenses on clusters of several sizes, brought up here one after the other.

A driver of such a cluster is a process of its own: `python -m raysim.replay.on_nodes REQUEST`, REQUEST being JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from raysim.config.schema import Component
from raysim.errors import ConfigError, RunError
from raysim.exit_status import exit_status
from raysim.replay.replay import labels, prepared, replay
from raysim.replay.summary import FOLDER


def replay_on_nodes(
    run: Path,
    defenses: Sequence[Component],
    nodes: Sequence[int],
    *,
    kind: str = "raylets",
    cpus_per_node: int | None = None,
    bandwidth: str | None = None,
    rounds: tuple[int, int] | None = None,
    warm_up: bool = False,
) -> list[Path]:
    """`replay` on Ray, on clusters of these numbers of nodes; one directory a defense and number of nodes.

    kind, cpus_per_node, bandwidth: see `cluster.bring_up`. Raises RunError when a replay fails; what went wrong is
    said on stderr.
    """
    from cluster.clusters import bring_up

    prepared(run, defenses, rounds)
    directories = []
    for count in nodes:
        suffix = f"@{count}node" + ("s" if count > 1 else "")
        with bring_up(kind, nodes=count, cpus_per_node=cpus_per_node, bandwidth=bandwidth) as cluster:
            request = {
                "run": str(run),
                "defenses": [defense.model_dump() for defense in defenses],
                "rounds": rounds,
                "address": cluster.address,
                "suffix": suffix,
                "warm_up": warm_up,
            }
            status = cluster.run([sys.executable, "-m", "raysim.replay.on_nodes", json.dumps(request)])
        if status:
            raise RunError(f"the replay on {count} nodes ended with exit status {status}")
        directories += [run / FOLDER / (label + suffix) for label in labels(defenses)]
    return directories


def parse_nodes(text: str) -> list[int]:
    """`1,2,4` as numbers.

    >>> parse_nodes("1,2,4")
    [1, 2, 4]
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError("--nodes", "must list numbers of nodes, with commas", text, "1,2")
    return list(dict.fromkeys(int(part) for part in parts))


def main() -> None:
    """The driver on one cluster."""
    request = json.loads(sys.argv[1])
    rounds = request["rounds"]
    try:
        with exit_status():
            replay(
                Path(request["run"]),
                [Component(**values) for values in request["defenses"]],
                rounds=None if rounds is None else (rounds[0], rounds[1]),
                backend="ray",
                address=request["address"],
                suffix=request["suffix"],
                warm_up=request["warm_up"],
            )
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main()
