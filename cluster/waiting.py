"""`python -m cluster.waiting ADDRESS NODES`: when a cluster has that many nodes, print its address.

The address may be `auto`, the one that is printed names host and port.

A run takes its workers from the nodes that are up when it starts. The cluster's token must be in the environment.
"""

from __future__ import annotations

import logging
import sys
import time

POLL_S = 0.5


def main() -> None:
    """Connect and wait; what hinders goes to stderr in one line, with exit status 1."""
    import ray

    address, wanted = sys.argv[1], int(sys.argv[2])
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        sys.exit(" ".join(f"{type(error).__name__}: {error}".split()))
    while sum(node["Alive"] for node in ray.nodes()) < wanted:
        time.sleep(POLL_S)
    print(ray.get_runtime_context().gcs_address)


if __name__ == "__main__":
    main()
