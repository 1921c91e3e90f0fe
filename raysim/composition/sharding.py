"""The data that a configuration names, dealt as it says, written as shards: what later runs read a cohort's samples of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from raysim.composition.registry import make
from raysim.composition.samples import deal, load_data
from raysim.config.schema import ExperimentConfig
from raysim.data.dataset import Dataset
from raysim.data.partition import PARTITIONS, Partition
from raysim.data.shard_index import Index
from raysim.data.shard_writer import Samples, write_shards


def write_data(config: ExperimentConfig, folder: Path) -> Index:
    """Write what every client of the configuration holds, and the test set, into `folder`; the index.

    A run with `data.name=shards data.root=FOLDER data.partition=natural` has the same clients. Nothing is set aside for the
    server: that is up to the run. Clients without samples are left out by the natural partition, here as anywhere.
    """
    source = load_data(config)
    split = make("data.partition", PARTITIONS, config.data.partition)
    train, partition = deal(config, split, source, np.zeros(0, np.int64))
    return write_shards(
        folder,
        _clients(train, partition),
        (source.test.images, source.test.labels),
        classes=source.classes,
        mean=source.mean,
        std=source.std,
        attack_std=source.attack_std,
    )


def _clients(train: Dataset, partition: Partition) -> Iterator[Samples]:
    for client in range(partition.num_clients):
        held = train.select(partition.of(client))
        yield held.images, held.labels
