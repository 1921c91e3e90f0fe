"""Bucketing, a pre-aggregation: average random groups of updates.

Karimireddy, He and Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR 2022: shuffle the
updates, cut them into buckets of s, take the mean of each; the last bucket may be smaller. Each of f malicious
clients spoils at most one bucket, so the rule behind it must tolerate f of ceil(K / s) rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from defenses.mixing import mix_rows
from raysim.context import Context, State
from raysim.defense import PreAggregation
from raysim.matrix.updates import Updates
from raysim.options import PositiveInt


@dataclass(frozen=True)
class Bucketing(PreAggregation):
    """Replaces the updates by the means of random buckets of them, in front of another defense.

    The verdict on a bucket becomes that on its clients, and its weight is shared among them.
    """

    paper = "Karimireddy et al., ICLR 2022"
    judges_buffers = True
    on_buffers = "it averages updates, whatever models these began from"
    reads_columns = True
    bucket_size: PositiveInt = 2
    """Updates in a bucket, s (Karimireddy et al.: 2)."""

    def transform(
        self, state: State, updates: Updates, ctx: Context
    ) -> tuple[Updates, np.ndarray | None, State]:
        """Buckets are numbered, and named, by their lowest client id; their examples add up."""
        count = updates.num_clients
        drawn = np.empty(count, np.int64)
        drawn[ctx.generator("bucketing").permutation(count)] = np.arange(count) // self.bucket_size
        _, first_rows = np.unique(drawn, return_index=True)
        members = np.argsort(np.argsort(first_rows))[drawn]
        sizes = np.bincount(members)
        mixing = np.zeros((len(sizes), count))
        mixing[members, np.arange(count)] = 1.0 / sizes[members]
        mixed = mix_rows(
            updates,
            mixing,
            client_ids=updates.client_ids[np.sort(first_rows)],
            num_examples=np.bincount(members, weights=updates.num_examples).astype(np.int64),
        )
        return mixed, members, state
