"""Which nodes hold which shards of a data set, and so where its clients are best hosted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from raysim.backends.ray_lending import Holders, of_each_node
from raysim.backends.ray_worker import short_name
from raysim.data.shards import Column, held, read_there
from raysim.engine.experiment import NOWHERE, Experiment, Homes
from raysim.errors import DataError


def beside_shards(experiment: Experiment) -> Experiment:
    """The experiment with clients hosted beside their samples, if the data's shards lie on several nodes (data.store=nodes);
    any other as it is.

    Every node is asked what it holds. DataError, before anything else is started, for a shard with clients that no node
    holds, and for a file that is not what the index says.
    """
    images, labels, indices, offsets, *tests = experiment.arrays
    if not (isinstance(images, Column) and images.parted and isinstance(labels, Column)):
        return experiment
    shard_of = shards_of(images, indices, offsets)
    found = of_each_node(held, images.folder, images.index)
    holders = {
        number: tuple(sorted(node for node in found if number in found[node]))
        for number in range(len(images.index.train))
    }
    wanted = np.unique(shard_of[shard_of != NOWHERE]).tolist()
    if missing := [number for number in wanted if not holders[number]]:
        first = images.index.train[missing[0]].file
        raise DataError(
            f"{images.folder}: {len(missing)} of {len(wanted)} shards lie on none of {len(found)} nodes, {first} first: copy each "
            "to one of them at least, under that path"
        )
    lend = Holders(partial(read_there, images.folder), holders)
    lent = (Column(part.folder, part.index, part.name, parted=True, lend=lend) for part in (images, labels))
    return replace(experiment, arrays=(*lent, indices, offsets, *tests), homes=homes_of(shard_of, holders))


def shards_of(column: Column, indices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The number of the shard where each client's samples begin [N]; NOWHERE for who has none."""
    found = np.full(len(offsets) - 1, NOWHERE, np.int32)
    some = np.flatnonzero(np.diff(offsets))
    ends = np.cumsum([part.rows for part in column.index.train])
    found[some] = np.searchsorted(ends, indices[np.asarray(offsets)[some]], "right")
    return found


def homes_of(shard_of: np.ndarray, holders: Mapping[int, Sequence[str]]) -> Homes:
    """Each client's node: of those that hold its shard the one that has been given fewest clients, shard by shard."""
    names = sorted({node for nodes in holders.values() for node in nodes})
    given = dict.fromkeys(names, 0)
    clients = np.bincount(shard_of[shard_of != NOWHERE], minlength=len(holders))
    home_of = np.full(len(holders) + 1, NOWHERE, np.int16)  # the last for NOWHERE
    for number, nodes in sorted(holders.items()):
        if nodes:
            best = min(nodes, key=lambda node: (given[node], node))
            given[best] += int(clients[number])
            home_of[number] = names.index(best)
    return Homes(tuple(short_name(name) for name in names), home_of[shard_of])
