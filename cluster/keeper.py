"""The process that keeps a cluster's nodes: `python -m cluster.keeper PLAN FOLDER`.

It starts the nodes, says on stdout where they are (one line of JSON), waits for the end of stdin, which comes when
the process that wanted the cluster closes the pipe or dies, and takes everything down: its nodes, its network
namespaces, the cluster's folder. It is the leader of a session of its own; `bring_up` starts it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from cluster import namespaces, processes, raylets
from cluster.plan import ClusterPlan

STARTS = {"local": raylets.started, "raylets": raylets.started, "namespaces": namespaces.started}


def main() -> None:
    """Keep one cluster."""
    plan, folder = ClusterPlan.from_json(sys.argv[1]), Path(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        with STARTS[plan.kind](plan, folder) as (address, inside):
            print(json.dumps({"address": address, "inside": inside}), flush=True)
            sys.stdin.read()
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
    finally:
        processes.end_session(os.getpid())
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
